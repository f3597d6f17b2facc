"""Tiny corpora and configs for our tests and for users' tests."""

from nemo_speechlm.testing.configs import (
    tiny_architecture,
    tiny_frame_classifier_config,
    tiny_pretrain_config,
    tiny_recipe,
    tiny_text_to_unit_config,
)
from nemo_speechlm.testing.corpora import (
    LETTERS,
    TinyCorpus,
    TinyPairs,
    russian,
    tiny_corpus,
    tiny_hidden_corpus,
    tiny_hidden_inventory,
    tiny_inventory,
    tiny_labels,
    tiny_paired_corpus,
)
from nemo_speechlm.testing.trainer import tiny_trainer

__all__ = [
    "LETTERS",
    "TinyCorpus",
    "TinyPairs",
    "russian",
    "tiny_architecture",
    "tiny_corpus",
    "tiny_frame_classifier_config",
    "tiny_hidden_corpus",
    "tiny_hidden_inventory",
    "tiny_inventory",
    "tiny_labels",
    "tiny_paired_corpus",
    "tiny_pretrain_config",
    "tiny_recipe",
    "tiny_text_to_unit_config",
    "tiny_trainer",
]

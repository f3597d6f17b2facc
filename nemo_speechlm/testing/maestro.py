"""A tiny MAESTRO model's config, for tests, ours and those of users."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.testing.corpora import TinyCorpus
from nemo_speechlm.testing.slam import TINY_SLAM_OPTIONS, TINY_W2V_BERT, tiny_slam_architecture, tiny_streams

TINY_MAESTRO_OPTIONS = [
    *TINY_SLAM_OPTIONS, "model.transducer.pred_hidden=16", "model.transducer.joint_hidden=16",
    "model.text_encoder.channels=16", "model.text_encoder.n_layers=1",
]  # fmt: skip
"""What makes ``maestro_small`` tiny, on a command line."""


def tiny_maestro_config(corpus: TinyCorpus, **overrides: Any) -> DictConfig:
    """Config of a :class:`MAESTROModel` on a tiny corpus, its transcribed speech being the pairs too.

    ``overrides`` replace keys.
    """
    data = tiny_streams(corpus)
    characters = " abcdefghijklmnopqrstuvwxyz'"
    config = {
        "language": {"code": "en", "voice": "en-us", "characters": characters},
        "labels": None,
        "tokenizer": {"dir": None, "type": "bpe"},
        "phones": {"source": None, "lexicon": None, "silence": True, "symbols": None},
        "tasks": {"w2v_bert": 1.0, "rnnt": 1.0, "matching": 1.0, "durations": 0.5, "ctc": 0.3, "aligned_mlm": 1.0},
        "stages": None,
        **tiny_slam_architecture(),
        "w2v_bert": TINY_W2V_BERT,
        "loss": {"diversity": 0.1},
        "masking": {"prob": 0.5, "length": 3, "min_spans": 1},
        "pairs_masking": {"prob": 0.0, "length": 3, "min_spans": 0},
        "mlm_masking": {
            "time": {"share": 0.3, "length": 3, "min_spans": 1},
            "features": {"share": 0.2, "length": 4, "min_spans": 0},
        },
        "matching": {"detach": True, "normalize": True},
        "average": {"decay": 0.9},
        "repetition": {"kind": "learned", "least": 1, "most": 20},
        "transducer": {"pred_hidden": 24, "pred_rnn_layers": 1, "joint_hidden": 20, "dropout": 0.0},
        "text_encoder": {
            "channels": 24,
            "n_convolutions": 2,
            "kernel": 3,
            "n_layers": 1,
            "n_heads": 2,
            "d_ff": 48,
            "dropout": 0.0,
        },
        "duration_model": {"n_blocks": 2, "heads": 4, "kernel": 3, "dropout": 0.0},
        "refiner": {"n_layers": 1, "n_heads": 2, "kernel": 5, "dropout": 0.0},
        "train_ds": {**data, "num_workers": 0, "seed": 0},
        "validation_ds": {**data, "num_workers": 0},
        "optim": {"name": "adamw", "lr": 3e-3},
    }
    return OmegaConf.create({**config, **overrides})

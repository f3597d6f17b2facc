"""Log probabilities of a CTC model: whether they depend on the batch."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.data.audio.utterances import audio_part
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.inference.audio_batches import Utterance
from nemo_speechlm.inference.ctc_text import log_probabilities
from nemo_speechlm.models import SpeechLMCTCModel
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels


def model_with(released_padding):
    torch.manual_seed(0)
    architecture = tiny_architecture()
    architecture["encoder"]["front_end"]["released_padding"] = released_padding
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead", "feat_in": 32, "dropout": 0.0}
    rest = {"labels": tiny_labels(), "train_ds": None, "validation_ds": None, "optim": None, "decoder": head}
    return SpeechLMCTCModel(OmegaConf.create({**architecture, **rest})).eval()


@pytest.fixture
def utterances(tmp_path):
    corpus = tiny_corpus(tmp_path, n_speech=4)
    return [
        Utterance(record, *audio_part(record, corpus.speech, number))
        for number, record in read_manifest(corpus.speech)
    ]


@pytest.mark.parametrize("released_padding", [True, False])
def test_a_batch_does_not_matter(released_padding, utterances):
    model = model_with(released_padding)
    alone = log_probabilities(model, utterances, batch_duration=0, quiet=True)
    for own, usual in zip(alone, log_probabilities(model, utterances, quiet=True), strict=True):
        np.testing.assert_allclose(own, usual, atol=1e-4)
    together = log_probabilities(model, utterances, batch_duration=120, quiet=True)
    differ = any(len(a) != len(b) or np.abs(a - b).max() > 1e-3 for a, b in zip(alone, together, strict=True))
    assert differ == released_padding

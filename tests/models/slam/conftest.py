"""A tiny SLAM model without data, and batches of each stream."""

import pytest
import torch

from nemo_speechlm.data.pretraining.batch import PairBatch, PretrainBatch, SpeechBatch, TokenBatch
from nemo_speechlm.models.slam.model import SLAMModel
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.slam import tiny_slam_config
from tests.models.multitask import Mels


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("slam"), n_speech=16, n_text=60)


@pytest.fixture(scope="session")
def build(corpus):
    def build(**overrides):
        torch.manual_seed(0)
        return SLAMModel(tiny_slam_config(corpus, train_ds=None, validation_ds=None, **overrides))

    return build


@pytest.fixture(scope="session")
def shared_model(build):
    return build(tasks={"w2v_bert": 1.0, "masked_text": 1.0, "tlm": 1.0, "stm": 1.0, "ctc": 0.3}).double()


@pytest.fixture
def model(shared_model):
    """In float64 and in evaluation mode."""
    shared_model.zero_grad()
    return shared_model.eval()


@pytest.fixture
def batch(model):
    model.preprocessor = Mels()
    generator = torch.Generator().manual_seed(1)
    audio, samples = torch.randn(3, 20000, generator=generator), torch.tensor([20000, 12000, 16000])
    tokens, lengths = torch.randint(1, 12, (3, 9), generator=generator), torch.tensor([9, 4, 7])
    tokens[torch.arange(9) >= lengths.unsqueeze(1)] = 0
    return PretrainBatch(
        SpeechBatch(audio, samples),
        TokenBatch(tokens, lengths),
        PairBatch(audio.flip(0), samples.flip(0), tokens.flip(1)[:, :4], torch.tensor([4, 2, 3])),
    )

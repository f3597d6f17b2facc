"""A tiny MAESTRO model without data, and batches of each stream."""

import pytest
import torch

from nemo_speechlm.data.pretraining.batch import PairBatch, PretrainBatch, SpeechBatch, TokenBatch
from nemo_speechlm.models.maestro.model import MAESTROModel
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.maestro import tiny_maestro_config
from tests.models.multitask import Mels


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("maestro"), n_speech=16, n_text=60)


@pytest.fixture(scope="session")
def build(corpus):
    def build(**overrides):
        torch.manual_seed(0)
        return MAESTROModel(tiny_maestro_config(corpus, train_ds=None, validation_ds=None, **overrides))

    return build


@pytest.fixture(scope="session")
def shared_model(build):
    return build().double()


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

    def rows(lengths, number):
        ids = torch.randint(1, number, (3, int(lengths.max())), generator=generator)
        return ids.masked_fill(torch.arange(ids.shape[1]) >= lengths.unsqueeze(1), 0), lengths

    tokens, phones = rows(torch.tensor([9, 4, 7]), 20), rows(torch.tensor([7, 3, 6]), 40)
    return PretrainBatch(
        SpeechBatch(audio, samples),
        TokenBatch(*tokens, phones=phones[0], phone_lengths=phones[1]),
        PairBatch(audio.flip(0), samples.flip(0), *tokens, phones=phones[0], phone_lengths=phones[1]),
    )

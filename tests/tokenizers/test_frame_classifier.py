"""Tokenizing with a frame classifier that was not trained: what it hears is nonsense, but always the same."""

import numpy as np
import pytest
import torch

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.models import FrameClassifierModel, SpeechLMModel
from nemo_speechlm.testing.configs import tiny_frame_classifier_config, tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.tokenizers.frame_classifier import FrameClassifierTokenizing
from nemo_speechlm.tokenizers.speech import SpeechInput, SpeechUnits


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=4)


@pytest.fixture(scope="module")
def model(corpus, tmp_path_factory):
    torch.manual_seed(0)
    model = FrameClassifierModel(tiny_frame_classifier_config(corpus))
    model.estimate_bigram([str(corpus.speech)])
    with torch.no_grad():
        model.classifier.weight *= 20  # as sure of itself as if it had learned something
    path = tmp_path_factory.mktemp("model") / "classifier.nemo"
    model.save_to(str(path))
    return path


@pytest.fixture(scope="module")
def utterances():
    rng = np.random.default_rng(0)
    seconds = [0.3, 2.0, 0.7, 1.1, 0.05, 2.6, 0.1]
    return [SpeechInput(rng.normal(0, 0.1, round(s * 16000)).astype(np.float32), None, {}) for s in seconds]


def test_output_does_not_depend_on_the_others(model, utterances):
    tokenizer = FrameClassifierTokenizing(str(model), device="cpu").make()
    together = tokenizer.tokenize_batch(utterances)
    assert isinstance(together[4], SkipItem)
    assert "shorter than 0.1 s" in str(together[4])
    for position, utterance in enumerate(utterances):
        if position == 4:
            with pytest.raises(SkipItem):
                tokenizer.tokenize(utterance)
            continue
        assert tokenizer.tokenize(utterance) == together[position]
        assert sum(together[position].durations) == round(len(utterance.samples) / 160)
    assert tokenizer.tokenize_batch(utterances[::-1])[::-1][:4] == together[:4]
    assert len({units for found in together if isinstance(found, SpeechUnits) for units in found.units}) > 2


def test_network_in_batches(model, utterances):
    alone = FrameClassifierTokenizing(str(model), device="cpu").make().tokenize_batch(utterances)
    batched = FrameClassifierTokenizing(str(model), device="cpu", batch_duration=6).make()
    found = batched.tokenize_batch(utterances)
    assert [f for f in found if isinstance(f, SpeechUnits)] == [f for f in alone if isinstance(f, SpeechUnits)]


def test_decoding_options(model, utterances):
    counts = []
    for penalty in (-10, 10):
        tokenizing = FrameClassifierTokenizing(str(model), penalty=penalty, device="cpu")
        assert tokenizing.restored.cfg.decoding.lm_weight == 1.0
        counts.append(len(tokenizing.make().tokenize(utterances[1]).units))
    assert counts[0] < counts[1]


def test_description(model):
    tokenizing = FrameClassifierTokenizing(str(model), device="cpu")
    assert tokenizing.inventory().symbols[0] == "SIL"
    assert not tokenizing.inventory().durations
    assert tokenizing.max_workers is None
    assert tokenizing.files() == [str(model)]
    folder = FrameClassifierTokenizing(str(model.parent), device="cpu")  # as a folder, or by its name on the hub
    assert folder.files() == [str(model)]
    assert folder.inventory() == tokenizing.inventory()
    assert "restored" not in tokenizing.__getstate__()
    assert tokenizing.files() == [str(model)]


def test_another_model(corpus, tmp_path):
    path = tmp_path / "pretrained.nemo"
    SpeechLMModel(tiny_pretrain_config(corpus)).save_to(str(path))
    with pytest.raises(InputError, match="is a SpeechLMModel, expected a frame classifier"):
        FrameClassifierTokenizing(str(path)).inventory()
    with pytest.raises(InputError, match="batch_duration is -1"):
        FrameClassifierTokenizing(str(path), batch_duration=-1)

"""A pretrained SpeechLM recognizes by the CTC head that learned from text."""

import pytest
import torch

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), 4, 8)


def build(corpus, **changes):
    config = tiny_pretrain_config(corpus)
    config.train_ds, config.validation_ds = None, None
    for key, value in changes.items():
        config.loss[key] = value
    torch.manual_seed(0)
    return SpeechLMModel(config).eval()


def test_its_probabilities_are_those_of_encoder_and_head(corpus):
    model = build(corpus)
    recognizer = model.recognizer()
    audio, lengths = torch.randn(2, 24000), torch.tensor([24000, 17000])
    with torch.no_grad():
        log_probs, frames, _ = recognizer(input_signal=audio, input_signal_length=lengths)
        states, expected_frames = model(input_signal=audio, input_signal_length=lengths)
        expected = model.ctc_head(encoder_output=states)
        alone, _, _ = recognizer(input_signal=audio[1:, :17000], input_signal_length=lengths[1:])
    assert torch.equal(log_probs, expected)
    assert torch.equal(frames, expected_frames)
    torch.testing.assert_close(log_probs[1:, : frames[1]], alone[:, : frames[1]], rtol=1e-3, atol=1e-4)


def test_transcribe_spells_the_best_path(corpus):
    model = build(corpus)
    samples = torch.randn(20000)
    (found,) = model.transcribe([samples.numpy()], verbose=False)
    with torch.no_grad():
        states, _ = model(input_signal=samples.unsqueeze(0), input_signal_length=torch.tensor([20000]))
        best = model.ctc_head(encoder_output=states)[0].argmax(-1).tolist()
    assert not model.training
    model.train().transcribe([samples.numpy()], verbose=False)
    assert all(module.training for module in model.encoder.modules())
    blank = len(model.labels)
    kept = [c for c, before in zip(best, [blank, *best[:-1]], strict=True) if c not in (before, blank)]
    assert found.text.split() == "".join(model.labels[c] for c in kept).split()


def test_without_text_there_is_nothing_to_recognize_with(corpus):
    model = build(corpus, uctc=0.0)
    with pytest.raises(SpeechLMError, match=r"pretrained with model\.loss\.uctc=0"):
        model.transcribe([torch.randn(20000).numpy()])

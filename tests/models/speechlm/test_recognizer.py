"""A pretrained SpeechLM recognizes by the CTC head that learned from text."""

from dataclasses import replace

import pytest
import torch

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.recognition.ctc import SpeechLMCTCModel
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.modules import SpeechLMEncoder, SwappingEncoder
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


@torch.no_grad()
def plain(model, audio, swapping):
    """What the head reads of one utterance: the states of speech, or those of the units that they are taken for."""
    states, _ = model(input_signal=audio.unsqueeze(0), input_signal_length=torch.tensor([len(audio)]))
    if swapping:
        chances = model.unit_classifiers["shared"](states.transpose(1, 2)).softmax(-1)
        units = sum(chances[..., u, None] * model.unit_embedding.weight[u] for u in range(len(model.inventory)))
        states, _ = model.encoder.encode_shared(units, torch.zeros(1, states.shape[2], dtype=torch.bool))
        states = states.transpose(1, 2)
    return model.ctc_head(encoder_output=states)[0]


@pytest.mark.parametrize(("swapping", "swaps"), [(False, False), (True, True), (None, True)])
def test_its_probabilities_are_those_of_encoder_and_head(corpus, swapping, swaps):
    model = build(corpus)
    recognizer = model.recognizer(swapping)
    audio, lengths = torch.randn(2, 24000), [24000, 17000]
    with torch.no_grad():
        log_probs, frames, _ = recognizer(input_signal=audio, input_signal_length=torch.tensor(lengths))
    for row, length in enumerate(lengths):
        expected = plain(model, audio[row, :length], swaps)
        assert frames[row] == len(expected)
        torch.testing.assert_close(log_probs[row, : frames[row]], expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(log_probs[0], plain(model, audio[0], not swaps), atol=1e-2)


def test_it_shares_the_weights_and_is_a_model_of_its_own_when_saved(corpus, tmp_path):
    model = build(corpus)
    audio, lengths = torch.randn(1, 24000), torch.tensor([24000])
    recognizer = model.recognizer()
    recognizer.save_to(tmp_path / "ctc.nemo")
    restored = SpeechLMCTCModel.restore_from(tmp_path / "ctc.nemo").eval()
    with torch.no_grad():
        before = recognizer(input_signal=audio, input_signal_length=lengths)[0]
        assert torch.equal(restored(input_signal=audio, input_signal_length=lengths)[0], before)
        for weight in (model.unit_embedding.weight, model.encoder.mask_emb, next(model.encoder.parameters())):
            weight.mul_(1.5)
        assert not torch.equal(recognizer(input_signal=audio, input_signal_length=lengths)[0], before)
    shared = {id(weight) for weight in recognizer.encoder.parameters()}
    assert {id(weight) for weight in model.encoder.parameters()} < shared


def test_its_export_swaps_too(corpus):
    encoder = build(corpus).recognizer().encoder
    signal, lengths = encoder.input_example(2)
    with torch.no_grad():
        states, frames = encoder.forward_for_export(signal, lengths)
        expected, _ = encoder(audio_signal=signal, length=lengths)
    for row, length in enumerate(frames):
        torch.testing.assert_close(states[row, :, :length], expected[row, :, :length], rtol=1e-3, atol=1e-4)


def test_hidden_units_and_converted_models_are_not_swapped_unless_asked(corpus):
    for name, value in (("released_labels", True), ("inventory", None)):
        model = build(corpus)
        if name == "inventory":
            value = replace(model.inventory, kind="hidden", silence=None)
            model.text_inventory = value
        setattr(model, name, value)
        assert type(model.recognizer().encoder) is SpeechLMEncoder
        assert type(model.recognizer(True).encoder) is SwappingEncoder
    model.text_inventory = build(corpus).inventory
    assert type(model.recognizer().encoder) is SpeechLMEncoder
    with pytest.raises(SpeechLMError, match="units of speech that are not those of text"):
        model.recognizer(True)


def test_transcribe_spells_the_best_path(corpus):
    model = build(corpus)
    samples = torch.randn(20000)
    (found,) = model.transcribe([samples.numpy()], verbose=False)
    best = plain(model, samples, True).argmax(-1).tolist()
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

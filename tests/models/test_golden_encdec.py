"""The converted translation model against the released one: states, logits, losses, hypotheses of beam search."""

import json

import pytest
import soundfile
import torch

from nemo_speechlm.data.manifest import write_manifest
from nemo_speechlm.evaluation.recognition import read_utterances, transcribe
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.losses.label_smoothing import smoothed_cross_entropy
from nemo_speechlm.modules.beam_search import EOS, SearchSettings
from nemo_speechlm.modules.decoder import PAD
from tests.golden import GOLDEN, converted, load, needs_golden, relative_error

pytestmark = needs_golden

SEARCHES = {
    "beam5": SearchSettings(beam_size=5, max_length=40),
    "beam5_lenpen0.5": SearchSettings(beam_size=5, length_penalty=0.5, max_length=25),
    "beam1": SearchSettings(beam_size=1, max_length=40),
}


@pytest.fixture(scope="module")
def outputs():
    return load("speechlm_st_tiny/outputs.pt")


@pytest.fixture(scope="module")
def symbols():
    return json.loads((GOLDEN / "speechlm_st_tiny/dictionaries.json").read_text())["target_dictionary"]


@pytest.fixture(scope="module", params=["checkpoint.pt", "checkpoint_plain.pt"])
def model(request, symbols, tmp_path_factory):
    """Converted from both files: settings in an argparse Namespace, as in the released ones, and in a dict."""
    path = tmp_path_factory.mktemp("dictionary") / "dict.txt"
    path.write_text("".join(f"{symbol} 1\n" for symbol in symbols[4:]), encoding="utf-8")
    return converted(f"speechlm_st_tiny/{request.param}", Options(label_dictionary=path))[0]


@pytest.fixture
def states(model, outputs):
    with torch.no_grad():
        return model.forward(input_signal=outputs["source"], input_signal_length=outputs["src_lengths"])


def test_settings_are_carried(model, symbols):
    assert model.vocabulary.symbols == [" " if symbol == "▁" else symbol for symbol in symbols]
    assert model.cfg.leading_space
    assert model.cfg.task == "translation"
    assert model.cfg.encoder.front_end.released_padding
    assert model.encoder.time_mask.prob == 0.5
    assert model.decoder.layerdrop == 0.1
    assert model.decoder.relative_positions.max_distance == 24


def test_encoder(states, outputs):
    encoded, _, frames = states
    assert torch.equal(frames, (~outputs["encoder_padding_mask"]).sum(1))
    for row, length in enumerate(frames):
        assert relative_error(encoded[row, :length], outputs["encoder_out"][row, :length]) < 1e-5


@torch.no_grad()
def test_decoder_layers(model, outputs):
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, output: seen.append(output[0])) for layer in model.decoder.layers
    ]
    tokens, padding = outputs["prev_output_tokens"], outputs["encoder_padding_mask"]
    logits = model.decoder(tokens, outputs["encoder_out"], padding)
    for hook in hooks:
        hook.remove()
    own = tokens.ne(PAD)
    assert relative_error(model.decoder._embed(tokens, 0)[own], outputs["decoder_layer_in"][own]) < 1e-5
    for number, found in enumerate(seen):
        assert relative_error(found[own], outputs[f"decoder_layer_{number}"][own]) < 1e-5
    assert relative_error(logits[own], outputs["decoder_logits"][own]) < 1e-5


@torch.no_grad()
def test_losses(model, states, outputs):
    encoded, _, frames = states
    target = outputs["target"]
    own = target.ne(PAD) & target.ne(EOS)
    logits, targets = model.score(encoded, frames, target[:, :-1], own.sum(1))
    assert torch.equal(targets, target)
    for smoothing, name in ((0.0, "nll_sum"), (0.1, "label_smoothed_loss_sum")):
        assert smoothed_cross_entropy(logits, targets, smoothing, PAD).item() == pytest.approx(
            outputs[name].item(), rel=1e-5
        )


@pytest.mark.parametrize("name", SEARCHES)
def test_hypotheses(model, states, outputs, name):
    encoded, _, frames = states
    model.change_decoding_strategy(SEARCHES[name].__dict__)
    _compare(model.search_states(encoded, frames), outputs, name)


def _compare(found, outputs, name):
    for row, hypotheses in enumerate(found):
        keys = [f"{name}.utt{row}.hyp{rank}" for rank in range(len(hypotheses))]
        assert f"{name}.utt{row}.hyp{len(hypotheses)}.tokens" not in outputs
        for key, hypothesis in zip(keys, hypotheses, strict=True):
            assert hypothesis.tokens.tolist() == outputs[f"{key}.tokens"].tolist(), key
            assert hypothesis.score == pytest.approx(outputs[f"{key}.score"], rel=1e-5)
            if f"{key}.positional_scores" in outputs:
                torch.testing.assert_close(
                    hypothesis.token_scores, outputs[f"{key}.positional_scores"], rtol=1e-4, atol=1e-5
                )


def test_transcribing_each_alone(model, outputs):
    """What a user calls, one utterance after the other: the released single-utterance hypotheses."""
    model.change_decoding_strategy({"beam_size": 5, "length_penalty": 1.0, "max_length": 40})
    waveforms = [outputs["source"][row, :length] for row, length in enumerate(outputs["src_lengths"])]
    found = model.transcribe(waveforms, batch_size=1, verbose=False)
    for row, hypothesis in enumerate(found):
        expected = outputs[f"beam5_single.utt{row}.hyp0.tokens"].tolist()
        if len(waveforms[row]) >= model.cfg.sample_rate:  # NeMo fills shorter arrays up with silence
            assert hypothesis.y_sequence.tolist() == expected
        alone = model.generate(waveforms[row][None], torch.tensor([len(waveforms[row])]))[0][0]
        assert alone.tokens.tolist() == expected
        assert alone.score == pytest.approx(outputs[f"beam5_single.utt{row}.hyp0.score"], rel=1e-5)
        assert hypothesis.text == model.vocabulary.decode(hypothesis.y_sequence.tolist())


def test_evaluation_finds_the_same(model, outputs, tmp_path):
    """A manifest of audio files, through what speechlm_evaluate.py calls."""
    model.change_decoding_strategy({"beam_size": 5, "length_penalty": 1.0, "max_length": 40})
    records = []
    for row, length in enumerate(outputs["src_lengths"]):
        path = tmp_path / f"{row}.wav"
        soundfile.write(path, outputs["source"][row, :length].numpy(), 16000, subtype="FLOAT")
        records.append({"audio_filepath": path.name, "duration": float(length) / 16000, "text": ""})
    write_manifest(tmp_path / "two.json", records)
    utterances, _ = read_utterances(tmp_path / "two.json")
    assert transcribe(model, utterances, batch_duration=0.1) == [
        model.vocabulary.decode(outputs[f"beam5_single.utt{row}.hyp0.tokens"].tolist()) for row in (0, 1)
    ]
    together = transcribe(model, utterances, batch_duration=10)
    assert together == [model.vocabulary.decode(outputs[f"beam5.utt{row}.hyp0.tokens"].tolist()) for row in (0, 1)]

"""Our encoder against the released one, layer by layer."""

import pytest
import torch

from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.preprocessing import normalize_waveform
from tests.golden import load, needs_golden, relative_error, released_encoder

pytestmark = needs_golden
FOLDERS = ["speechlm_p_tiny", "speechlm_large_tiny"]


@pytest.fixture(scope="module", params=FOLDERS)
def case(request):
    torch.set_grad_enabled(False)
    yield request.param, released_encoder(request.param), load(f"{request.param}/features.pt")
    torch.set_grad_enabled(True)


def test_batch(case):
    _, encoder, golden = case
    lengths = (~golden["wave_padding_mask"]).sum(1)
    frames = encoder.embed_speech(golden["source"].unsqueeze(1), lengths)
    assert torch.equal(padding_mask(frames.lengths, frames.states.shape[1]), golden["padding_mask"])
    assert relative_error(frames.states, golden["features_proj"]) < 1e-5


def test_layers(case):
    _, encoder, golden = case
    lengths = (~golden["wave_padding_mask"]).sum(1)
    inside = ~golden["padding_mask"]
    layers, _ = encoder.layer_outputs(golden["source"].unsqueeze(1), lengths)
    for ours, name in zip(layers, ["speech_layer_0", "speech_out", "unit_layer_0", "unit_out"], strict=True):
        assert relative_error(ours[inside], golden[name][inside]) < 1e-5, name


@pytest.mark.parametrize("utterance", [0, 1])
def test_single(case, utterance):
    folder, encoder, golden = case
    audio = golden[f"wave{utterance}_raw"].unsqueeze(0)
    length = torch.tensor([audio.shape[1]])
    if "large" in folder:
        audio = normalize_waveform(audio, length)
    encoded, frames = encoder(audio_signal=audio.unsqueeze(1), length=length)
    assert frames.tolist() == [golden[f"single{utterance}_final"].shape[1]]
    assert relative_error(encoded.transpose(1, 2), golden[f"single{utterance}_final"]) < 1e-5


def test_long(case):
    folder, encoder, _ = case
    golden = load(f"{folder}/features_long.pt")
    audio = golden["wave"].unsqueeze(0)
    length = torch.tensor([audio.shape[1]])
    encoded, _ = encoder(audio_signal=audio.unsqueeze(1), length=length)
    assert relative_error(encoded.transpose(1, 2), golden["final"]) < 1e-5

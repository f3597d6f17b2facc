"""Converted models against the released ones, tensor by tensor."""

import pytest
import torch
from torch.nn import functional as F

from nemo_speechlm.modules.padding import padding_mask
from tests.golden import converted, load, needs_golden, relative_error

pytestmark = needs_golden
FOLDERS = ["speechlm_p_tiny", "speechlm_large_tiny"]


@pytest.fixture(scope="module", params=FOLDERS)
def case(request):
    torch.set_grad_enabled(False)
    model, _ = converted(f"{request.param}/checkpoint_real_structure.pt")
    yield request.param, model, load(f"{request.param}/features.pt")
    torch.set_grad_enabled(True)


@pytest.fixture(scope="module")
def inside_a_batch(case):
    """What the parts of the encoder give in the batch of two, under the golden files' names."""
    _, model, golden = case
    encoder = model.encoder
    speech, shared = encoder.speech_transformer, encoder.shared_transformer
    parts = {
        "features_ln": encoder.feature_norm,
        "features_proj": encoder.feature_proj,
        "pos_conv_out": speech.position,
        "speech_layer_in": speech.dropout,
        "speech_layer_0": speech.layers[0],
        "unit_layer_0": shared.layers[0],
    }
    seen = {}
    hooks = [
        part.register_forward_hook(lambda _m, _i, output, name=name: seen.__setitem__(name, output))
        for name, part in parts.items()
    ]
    lengths = (~golden["wave_padding_mask"]).sum(1)
    seen["conv_features"] = encoder.front_end(golden["source"].unsqueeze(1), lengths)[0].transpose(1, 2)
    layers, frames = encoder.layer_outputs(golden["source"].unsqueeze(1), lengths)
    for hook in hooks:
        hook.remove()
    seen |= {"speech_out": layers[1], "unit_out": layers[3], "final": layers[3], "standalone_alllayers_rep": layers[3]}
    seen |= {f"standalone_layer_{i}": layer for i, layer in enumerate(layers)}
    return seen, frames


NAMES = (
    "conv_features features_ln features_proj pos_conv_out speech_layer_in speech_layer_0 speech_out unit_layer_0 "
    "unit_out final standalone_layer_0 standalone_layer_1 standalone_layer_2 standalone_layer_3 "
    "standalone_alllayers_rep"
).split()

# The released list of a pre-norm model's layers lacks the norm behind each transformer's last one. Ours has it.
NORMALIZED = {"standalone_layer_1": "speech_out", "standalone_layer_3": "final"}


@pytest.mark.parametrize("name", NAMES)
def test_batch(case, inside_a_batch, name):
    folder, _, golden = case
    seen, frames = inside_a_batch
    assert torch.equal(padding_mask(frames, golden["padding_mask"].shape[1]), golden["padding_mask"])
    ours = seen[name]
    theirs = golden[NORMALIZED.get(name, name) if "large" in folder else name]
    if name == "conv_features":
        ours, theirs = ours.transpose(1, 2), theirs.transpose(1, 2)
    inside = torch.ones_like(golden["padding_mask"]) if name in NAMES[:3] else ~golden["padding_mask"]
    assert relative_error(ours[inside], theirs[inside]) < 1e-5


@pytest.mark.parametrize("layer", [0, 1])
def test_convolutions(case, layer):
    _, model, golden = case
    front_end, x = model.encoder.front_end, golden["source"].unsqueeze(1)
    for conv, norm in list(zip(front_end.convs, front_end.norms, strict=True))[: layer + 1]:
        x = conv(x)
        x = F.gelu(norm(x, None) if norm.__class__.__name__ == "MaskedInstanceNorm" else norm(x))
    assert relative_error(x[..., :400], golden[f"conv_{layer}[:400]"]) < 1e-5


@pytest.mark.parametrize("number", [0, 1])
def test_alone_from_raw_audio(case, number):
    _, model, golden = case
    audio = golden[f"wave{number}_raw"].unsqueeze(0)
    layers, frames = model.extract_features(audio, torch.tensor([audio.shape[1]]))
    assert frames.tolist() == [golden[f"single{number}_final"].shape[1]]
    assert relative_error(layers[3], golden[f"single{number}_final"]) < 1e-5
    assert relative_error(layers[1], golden[f"single{number}_speech_out"]) < 1e-5


@pytest.mark.parametrize("name", ["odd", "long"])
def test_odd_length_and_clamped_positions(case, name):
    folder, model, golden = case
    if name == "odd":
        audio = golden["source"][:1, : golden["odd_n_samples"]]
        final, speech_out = golden["odd_final"], golden["odd_speech_out"]
    else:
        golden = load(f"{folder}/features_long.pt")
        audio, final, speech_out = golden["wave"].unsqueeze(0), golden["final"], golden["speech_out"]
    layers, frames = model.encoder.layer_outputs(audio.unsqueeze(1), torch.tensor([audio.shape[1]]))
    assert frames.tolist() == [final.shape[1]]
    assert relative_error(layers[3], final) < 1e-5
    assert relative_error(layers[1], speech_out) < 1e-5


def test_at_the_wrong_offset_nothing_is_equal(case):
    """The comparison can fail."""
    _, model, golden = case
    audio = golden["wave0_raw"][160:].unsqueeze(0)
    layers, _ = model.extract_features(audio, torch.tensor([audio.shape[1]]))
    assert relative_error(layers[3][:, :63], golden["single0_final"][:, :63]) > 0.01

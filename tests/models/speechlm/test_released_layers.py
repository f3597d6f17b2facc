"""Every layer of the released code, on weights that a seed gives: the files are small, so any clone has them.

Each file in ``tests/assets/golden_seeded`` has the outputs of the released SpeechLM inference code at a tiny size: one
in the form of Base (norms behind the layers), one in the form of Large (norms before them). Of the checkpoint's
tensors it keeps names and shapes only: :func:`weights_of` draws the values.
"""

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch

from nemo_speechlm.interop.convert import build
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.interop.planning import make_plan
from nemo_speechlm.interop.reading.source import read_source
from tests.golden import Value, collect
from tests.interop.checkpoints import write_dictionary
from tests.long_forms import LONG

FILES = Path(__file__).parents[2] / "assets" / "golden_seeded"
NAMES = ("speechlm_p", "speechlm_large")
LAST = {1: "speech_transformer", 3: "shared_transformer"}
"""The last layers of the two transformers, counted over both."""


@cache
def golden(name):
    return torch.load(FILES / f"{name}.pt", weights_only=True)


def weights_of(name):
    """The checkpoint's tensors, drawn in the order of their names."""
    rng = torch.Generator().manual_seed(golden(name)["seed"])
    weights = {}
    for key, shape in sorted(golden(name)["shapes"].items()):
        x = torch.randn(*shape, generator=rng, dtype=torch.float64)
        x *= 0.1 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        if len(shape) == 1 and key.endswith("weight"):
            x += 1
        if key.endswith("weight_g"):
            x = x.abs() + 0.5
        weights[key] = x.float()
    # The released model has one table of units under two names; features of speech need neither.
    weights["unit_encoder.embed_tokens.weight"] = weights["unit_embed_tokens.weight"]
    return weights


def converted(name, weights, folder):
    """Our model with these weights."""
    path = folder / f"{name}.pt"
    torch.save({"model": weights, "cfg": json.loads(golden(name)["cfg"])}, path)
    symbols = json.loads(golden(name)["dictionaries"])
    options = Options(
        unit_dictionary=write_dictionary(folder / "units.txt", symbols["text_src_dictionary"]),
        label_dictionary=write_dictionary(folder / "labels.txt", symbols["text_dictionary"]),
    )
    return build(make_plan(read_source(path), options), folder, options)


def waves_of(name):
    rng = torch.Generator().manual_seed(golden(name)["wave_seed"])
    return [0.3 * torch.randn(length, generator=rng) for length in golden(name)["wave_lengths"]]


@torch.no_grad()
def alone(model, name, number):
    """Our layers of one wave, under the file's names."""
    wave = waves_of(name)[number]
    before_norm = {}
    hooks = [
        getattr(model.encoder, half).layers[-1].register_forward_hook(collect(before_norm, layer))
        for layer, half in LAST.items()
    ]
    layers, _ = model.extract_features(wave[None], torch.tensor([len(wave)]))
    for hook in hooks:
        hook.remove()
    found = {f"single{number}_final": Value(layers[-1][0])}
    if name == "speechlm_large":  # the released list has a transformer's last layer without the norm behind it
        layers = [before_norm.get(layer, value) for layer, value in enumerate(layers)]
    return found | {f"single{number}_layer{layer}": Value(value[0]) for layer, value in enumerate(layers)}


@torch.no_grad()
def together(model, name):
    """Our last layer of a batch of both waves; frames of padding mean nothing."""
    waves = waves_of(name)
    lengths = torch.tensor([len(wave) for wave in waves])
    layers, frames = model.extract_features(torch.nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
    kept = torch.arange(layers[-1].shape[1]) < frames[:, None]
    return {"batch_final": Value(layers[-1], kept), "batch_padding": Value(~kept)}


def differences(ours, name):
    return {key: said for key, value in ours.items() if (said := value.difference(golden(name)[f"out.{key}"]))}


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_the_released_one(name, tmp_path):
    """To 1e-5 of the largest value in each layer, each utterance alone and both in one batch."""
    model = converted(name, weights_of(name), tmp_path)
    ours = alone(model, name, 0) | alone(model, name, 1) | together(model, name)
    expected = {key.removeprefix("out.") for key in golden(name) if key.startswith("out.")}
    assert ours.keys() == expected, "every value of the file is compared"
    assert not differences(ours, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_weight_is_seen(name, tmp_path):
    """Each parameter of the encoder in turn, its values moved by one place; every third one in short tests."""
    model = converted(name, weights_of(name), tmp_path)
    parameters = dict(list(model.encoder.named_parameters())[:: 1 if LONG else 3])
    unseen = set()
    for key, parameter in parameters.items():
        right = parameter.detach().clone()
        with torch.no_grad():
            parameter.copy_(right.flatten().roll(1).view_as(right))
            if not differences(alone(model, name, 1), name):
                unseen.add(key)
            parameter.copy_(right)
    # Features have no masks, and the same score added to all keys changes no attention.
    assert unseen == {key for key in parameters if key.endswith(("mask_emb", "k_proj.bias", "norm_k.bias"))}
    assert not differences(alone(model, name, 1), name)

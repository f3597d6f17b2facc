"""Checkpoints of every kind in sizes drawn at random: other widths, heads, numbers of layers, inventories."""

import random

import pytest
import torch
from nemo.core.classes import ModelPT

from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.plan import Options
from tests.interop.checkpoints import (
    SPECIAL,
    cleaned,
    fine_tuned,
    hubert,
    speechlm,
    text_to_unit,
    translation,
    wav2vec2,
    write_dictionary,
)
from tests.long_forms import examples


def width_and_heads(rng, step=4):
    heads = rng.choice([1, 2, 3, 5])
    return {"width": heads * step * rng.randint(1, 4), "heads": heads}


def symbols(rng, prefix):
    return [*SPECIAL, *(f"{prefix}{number}" for number in range(rng.randint(1, 60))), "<mask>"]


def sizes_of_speechlm(rng):
    return width_and_heads(rng) | {
        "ffn": rng.randint(1, 70),
        "speech": rng.randint(1, 5),
        "shared": rng.randint(1, 5),
        "final": rng.randint(1, 30),
        "channels": rng.randint(2, 30),
        "pre_norm": rng.random() < 0.5,
        "units": symbols(rng, "U"),
        "letters": [*SPECIAL, "|", *map(chr, range(65, 65 + rng.randint(1, 26))), "<mask>"],
    }


def draw(kind, rng):
    """The checkpoint, the symbols of its dictionaries by option, and (speech, shared) layers and width."""
    if kind in ("hubert", "wav2vec2"):
        count, channels = rng.randint(2, 7), rng.randint(2, 20)
        sizes = width_and_heads(rng) | {"ffn": rng.randint(1, 40), "count": count, "channels": channels}
        return (
            (hubert if kind == "hubert" else wav2vec2)(**sizes),
            {},
            (count // 2, count - count // 2, sizes["width"]),
        )
    if kind == "text to unit":
        phones, units = symbols(rng, "P")[:-1], symbols(rng, "")[:-1]
        sizes = width_and_heads(rng, 2) | {"ffn": rng.randint(1, 40), "kernel": rng.choice([1, 3, 9])}
        sizes |= {"layers": (rng.randint(1, 4), rng.randint(1, 4)), "hidden": rng.randint(1, 20)}
        content = text_to_unit(phones=phones, units=units, speakers=rng.choice([0, 3]), **sizes)
        return content, {"phone_dictionary": phones, "unit_dictionary": units}, (*sizes["layers"], sizes["width"])
    sizes = sizes_of_speechlm(rng)
    shape = sizes["speech"], sizes["shared"], sizes["width"]
    labels = {"label_dictionary": sizes["letters"]}
    if kind == "translation":
        own = width_and_heads(rng)
        characters = [*SPECIAL, "▁", *map(chr, range(97, 97 + rng.randint(1, 26)))]
        decoder = {"count": rng.randint(1, 4), "tgt": characters, "relative": rng.random() < 0.5}
        content = translation(
            own["width"], own["heads"], **decoder, encoder_width=sizes.pop("width"), encoder_heads=sizes.pop("heads"),
            encoder_pre_norm=sizes.pop("pre_norm"), **sizes,
        )  # fmt: skip
        return content, {"label_dictionary": characters}, shape
    if kind == "ctc":
        return fine_tuned(**sizes), labels, shape
    if kind == "cleaned":
        return cleaned(**sizes), {}, shape
    return speechlm(**sizes), labels | {"unit_dictionary": sizes["units"]}, shape


KINDS = ["pretrained", "cleaned", "ctc", "translation", "text to unit", "hubert", "wav2vec2"]


@pytest.mark.parametrize("seed", range(examples(3, 5)))
@pytest.mark.parametrize("kind", KINDS)
def test_any_size(tmp_path, kind, seed):
    rng = random.Random(f"{kind} {seed}")
    torch.manual_seed(rng.randrange(2**32))
    content, dictionaries, (first, second, width) = draw(kind, rng)
    paths = {name: write_dictionary(tmp_path / name, own) for name, own in dictionaries.items()}
    torch.save(content, tmp_path / "x.pt")
    plan = convert(tmp_path / "x.pt", tmp_path / "y.nemo", Options(**paths))
    model = ModelPT.restore_from(str(tmp_path / "y.nemo"), map_location="cpu").eval()
    state = model.state_dict()
    assert state.keys() == plan.names.keys()
    for ours, theirs in plan.names.items():
        expected = content["model"][theirs]
        rolled = ours.startswith(("decoder.linear", "ctc_head.linear"))  # our blank is the last class
        assert torch.equal(state[ours], expected.roll(-1, 0) if rolled else expected), ours
    if kind == "text to unit":
        assert (len(model.encoder.layers), len(model.decoder.layers), model.cfg.d_model) == (first, second, width)
        assert list(model.phones.symbols) == dictionaries["phone_dictionary"]
        spoken = model.generate([[4, 4]], *([[0]] if model.speakers else []))[0]
        assert max(spoken.units, default=0) < len(dictionaries["unit_dictionary"])
        return
    layers, frames = model.extract_features(torch.randn(1, 4000), torch.tensor([4000]))
    assert len(layers) == first + second == plan.config["encoder"]["speech_transformer"]["n_layers"] + second
    assert all(layer.shape == (1, int(frames), width) and layer.isfinite().all() for layer in layers)
    if "label_dictionary" in dictionaries:
        labels = model.vocabulary.symbols if kind == "translation" else model.cfg.labels
        assert len(labels) == len(dictionaries["label_dictionary"]) - (kind != "translation")

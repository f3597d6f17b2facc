"""Checkpoints of every kind, damaged in their bytes or hostile in their content, given to the converter."""

import argparse
import copy
import json
import os
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.plan import Options
from tests.interop import checkpoints
from tests.interop.checkpoints import HIDDEN, LETTERS, PHONES, PIECES, UNITS, write_dictionary
from tests.long_forms import examples

KINDS = {
    "pretrained": (checkpoints.speechlm, {"unit_dictionary": UNITS[:-1], "label_dictionary": LETTERS[:-1]}),
    "cleaned": (checkpoints.cleaned, {}),
    "ctc": (checkpoints.fine_tuned, {"label_dictionary": LETTERS[:-1]}),
    "translation": (checkpoints.translation, {"label_dictionary": PIECES}),
    "text to unit": (checkpoints.text_to_unit, {"phone_dictionary": PHONES, "unit_dictionary": HIDDEN}),
    "hubert": (checkpoints.hubert, {}),
    "wav2vec2": (checkpoints.wav2vec2, {}),
}
FOLDERS = ("safetensors", "bin")
JUNK = (None, "", "x", -1, 0, 3, 2**70, 1e300, float("nan"), True, [], [None], {}, {"a": 1}, (), torch.zeros(2), 7.5)


class Attack:
    """Makes a file where a reader that runs code would."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


class Originals(dict):
    def __repr__(self):
        return "originals"  # Hypothesis would print every weight


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """{kind: (content, options)}; for Hugging Face's, content is config and weights."""
    folder = tmp_path_factory.mktemp("dictionaries")
    found = Originals()
    for kind, (make, dictionaries) in KINDS.items():
        paths = {n: write_dictionary(folder / f"{kind} {n}", symbols) for n, symbols in dictionaries.items()}
        found[kind] = make(), Options(**paths)
    config = HubertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, conv_dim=(4, 4),
        conv_kernel=(10, 3), conv_stride=(5, 4), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    for kind in FOLDERS:
        state = {key: value.contiguous() for key, value in HubertModel(config).state_dict().items()}
        found[kind] = {"config": config.to_dict(), "model": state}, Options()
    return found


def write(content, path, kind, rng):
    """The files of a checkpoint; the one whose bytes are to be damaged comes back."""
    if kind not in FOLDERS:
        # The older format has no checksums that would catch damage early.
        torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.4)
        return path
    path.mkdir()
    config = json.dumps(content["config"], default=str)
    (path / "config.json").write_text(config)
    weights = path / ("model.safetensors" if kind == "safetensors" else "pytorch_model.bin")
    if kind == "safetensors":
        save_file({k: v for k, v in content["model"].items() if isinstance(v, torch.Tensor)}, weights)
    else:
        torch.save(content["model"], weights, _use_new_zipfile_serialization=rng.random() < 0.4)
    return rng.choice([weights, weights, path / "config.json"])


def damage(path, rng):
    data = bytearray(path.read_bytes())
    pickled = max(1, len(data) // 2)  # the tensors' values are at the end, and any value is a value
    for _ in range(rng.choice([1, 1, 2, 10])):
        position = rng.randrange(pickled if rng.random() < 0.9 else max(1, len(data)))
        kind = rng.random()
        if kind < 0.6:
            data[position : position + 1] = bytes([rng.randrange(256)])
        elif kind < 0.9:
            del data[position : position + rng.choice([1, 2, 40, 4000])]
        else:
            del data[position:]
    path.write_bytes(data)


def tamper(content, marker, rng):
    """One thing in the content is missing, of another kind or shape, or an attack."""
    containers = [content["config"], content["model"]] if "config" in content else [content]
    for container in containers:
        inner = list(container.values()) if isinstance(container, dict) else []
        inner += [vars(value) for value in inner if isinstance(value, argparse.Namespace)]
        containers += [value for value in inner if isinstance(value, dict) and value]
    where = rng.choice([container for container in containers if container] or [{"": None}])
    key = rng.choice(list(where))
    how = rng.random()
    if how < 0.25:
        del where[key]
    elif how < 0.4:
        where[key] = Attack(marker)
    elif isinstance(where[key], torch.Tensor) and how < 0.8:
        shape = [rng.choice([0, 1, 2, 5, 24]) for _ in range(rng.randrange(4))]
        where[key] = torch.zeros(shape, dtype=rng.choice([torch.float32, torch.float16, torch.int64, torch.complex64]))
    else:
        where[key] = copy.deepcopy(rng.choice(JUNK))  # put into itself, one of them would have no end


@settings(max_examples=examples(40, 500), deadline=None)
@given(st.sampled_from([*KINDS, *FOLDERS]), st.booleans(), st.randoms(use_true_random=False))
def test_damaged_and_hostile_checkpoints(originals, tmp_path_factory, kind, bytes_only, rng: random.Random):
    folder = tmp_path_factory.mktemp("fuzz")
    content, options = originals[kind]
    marker = folder / "run"
    if not bytes_only:
        content = copy.deepcopy(content)
        for _ in range(rng.choice([1, 1, 3])):
            tamper(content, marker, rng)
    damaged = write(content, folder / "x", kind, rng)
    if bytes_only:
        damage(damaged, rng)
    left = ["x", "y.nemo"]
    try:
        convert(folder / "x", folder / "y.nemo", options)  # any error but an InputError is a failure
    except InputError as error:
        left, named = ["x"], error.path
    assert sorted(path.name for path in folder.iterdir()) == left, "nothing half written, and nothing was run"
    assert len(left) == 2 or named, "the message names the file"


@pytest.mark.parametrize("kind", [*KINDS, *FOLDERS])
def test_undamaged_ones_are_converted(originals, tmp_path, kind):
    """Or else the fuzzing would stop at the first check."""
    content, options = originals[kind]
    write(content, tmp_path / "x", kind, random.Random(0))
    assert convert(tmp_path / "x", tmp_path / "y.nemo", options).weights

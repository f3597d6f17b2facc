"""Reading PyTorch files without unpickling: equal to PyTorch's own reading, and nothing that a file holds is run."""

import argparse
import enum
import io
import os
import pickle
import random
import re
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.safe_pickle import PickledObject
from nemo_speechlm.interop.torch_file import read_torch_file

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def tensors():
    base = torch.arange(24, dtype=torch.float32).view(4, 6)
    return OrderedDict(
        base=base,
        view=base[1:, ::2],
        transposed=base.t(),
        scalar=torch.tensor(3.5, dtype=torch.float64),
        half=torch.randn(3).half(),
        brain=torch.randn(3).bfloat16(),
        long=torch.tensor([2**40, -1]),
        truth=torch.tensor([True, False]),
        empty=torch.empty(0, 3),
        parameter=torch.nn.Parameter(torch.ones(2)),
    )


@FORMATS
def test_tensors_as_torch_reads_them(tmp_path, zipped):
    path = save({"model": tensors()}, tmp_path / "x.pt", zipped)
    ours, theirs = read_torch_file(path)["model"], torch.load(path, weights_only=True)["model"]
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value.detach(), rtol=0, atol=0, msg=key)


@FORMATS
def test_containers_and_known_objects(tmp_path, zipped):
    content = {
        "args": argparse.Namespace(lr=[0.1], nested=argparse.Namespace(a=1)),
        "cfg": OmegaConf.create({"model": {"layers": 2, "names": ["a", "b"], "same": "${model.layers}"}}),
        "set": {1, 2},
        "tuple": (1, (2, "x"), None, True, b"bytes"),
        "dtype": torch.float16,
        "default": defaultdict(list, a=[1]),
        "number": np.float64(2.5),
        "size": torch.Size([2, 3]),
    }
    read = read_torch_file(save(content, tmp_path / "x.pt", zipped))
    assert read["args"] == {"lr": [0.1], "nested": {"a": 1}}
    assert read["cfg"]["model"] == {"layers": 2, "names": ["a", "b"], "same": "${model.layers}"}
    assert read["set"] == {1, 2}
    assert read["tuple"] == content["tuple"]
    assert read["dtype"] == torch.float16
    assert read["default"] == {"a": [1]}
    assert read["number"] == 2.5
    assert read["size"] == (2, 3)


@pytest.fixture
def fairseq(monkeypatch):
    """A module with the name of fairseq's, there only while the file is written."""
    module = types.ModuleType("fairseq.data.dictionary")

    class Dictionary:
        pass

    class Choice(enum.Enum):
        A = "value of a"

    for cls in (Dictionary, Choice):
        cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
        setattr(module, cls.__name__, cls)
    with monkeypatch.context() as context:
        for name in ("fairseq", "fairseq.data"):
            context.setitem(sys.modules, name, types.ModuleType(name))
        context.setitem(sys.modules, module.__name__, module)
        yield module


@FORMATS
def test_fairseq_objects_are_data(tmp_path, fairseq, monkeypatch, zipped):
    dictionary = fairseq.Dictionary()
    dictionary.symbols, dictionary.count = ["<s>", "a"], [1, 1]
    path = save({"task": dictionary, "choice": fairseq.Choice.A}, tmp_path / "x.pt", zipped)
    monkeypatch.delitem(sys.modules, "fairseq.data.dictionary")
    read = read_torch_file(path)
    assert isinstance(read["task"], PickledObject)
    assert read["task"].type == "fairseq.data.dictionary.Dictionary"
    assert read["task"].state == {"symbols": ["<s>", "a"], "count": [1, 1]}
    assert read["choice"] == "value of a"
    assert "fairseq.data.dictionary" not in sys.modules


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@FORMATS
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, __import__, torch.load, np.load])
def test_functions_are_refused_by_name(tmp_path, function, zipped):
    path = save({"model": Attack(function, f"touch {tmp_path}/run")}, tmp_path / "x.pt", zipped)
    name = re.escape(function.__name__)
    with pytest.raises(InputError, match=rf"x\.pt: refers to \S+\.{name}, which is neither"):
        read_torch_file(path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def zip_with(pickled: bytes, path, **entries):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, data in entries.items():
            archive.writestr(f"x/data/{name}", data)
    return path


HOSTILE = {
    "no end": b"\x80\x02}",
    "memo without end": b"\x80\x02Nr\xff\xff\xff\xff.",
    "deep tuple as key": b"\x80\x02}(" + b")" + b"\x85" * 200_000 + b"Nu.",
    "deep lists": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "doubling": b"\x80\x02]q\x00"
    + b"".join(b"](h%bh%be" % (bytes([i]), bytes([i])) + b"q" + bytes([i + 1]) for i in range(90))
    + b".",
    "calls a list": b"\x80\x02])R.",
    "state of a list": b"\x80\x02]}b.",
    "extension": b"\x80\x02\x82\x01.",
    "bytes that are not there": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "builtin type": b"\x80\x02c__builtin__\nobject\n)R.",
    "name made of pieces": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
    "name of numbers": b"\x80\x04K\x01K\x02\x93.",
    "nothing on the stack": b"\x80\x020.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(tmp_path, name):
    path = zip_with(HOSTILE[name], tmp_path / "x.pt")
    if name == "doubling":
        read_torch_file(path)  # harmless, and done at once
        return
    with pytest.raises(InputError, match=r"x\.pt: "):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((10,), (1,), 0), ((2,), (1,), 3), ((2**40,), (0,), 0), ((2,), (-1,), 1), ((2, 2), (1,), 0), ((2,), (2**62,), 0)],
)
def test_tensors_that_leave_their_storage(tmp_path, size, stride, offset):
    class Fake:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Id(), offset, size, stride, False, OrderedDict())

    class Id:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(value, Id) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"model": Fake()})
    path = zip_with(buffer.getvalue(), tmp_path / "x.pt", **{"0": bytes(16)})
    with pytest.raises(InputError, match="damaged"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PyTorch file"),
        (b"hello world", "not a PyTorch file"),
        (pickle.dumps({"a": 1}), "not a PyTorch file"),
        (b"PK\x05\x06" + bytes(18), "no data.pkl"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_torch_file(path)
    with pytest.raises(InputError, match="no such file"):
        read_torch_file(tmp_path / "missing.pt")
    with pytest.raises(InputError):
        read_torch_file(tmp_path)


def test_compressed_files_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(100_000))
    with pytest.raises(InputError, match="compressed"):
        read_torch_file(tmp_path / "x.pt")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    content = {"args": argparse.Namespace(lr=0.1), "model": tensors(), "list": [1, "a", None]}
    return [save(content, folder / f"{zipped}.pt", zipped).read_bytes() for zipped in (True, False)]


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 1), st.randoms(use_true_random=False), st.sampled_from(["cut", "flip", "splice", "insert"]))
def test_damaged_files(originals, tmp_path_factory, number, rng: random.Random, kind):
    data = bytearray(originals[number])
    position = rng.randrange(len(data))
    if kind == "cut":
        del data[position:]
    elif kind == "flip":
        for _ in range(rng.randint(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "splice":
        del data[position : position + rng.randint(1, 200)]
    else:
        data[position:position] = rng.choice(list(HOSTILE.values()))[:300]
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.write_bytes(data)
    with suppress(InputError):  # any other error is a failure
        read_torch_file(path)

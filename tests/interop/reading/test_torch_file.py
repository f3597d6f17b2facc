"""Reading PyTorch files without unpickling: equal to PyTorch's own reading, and nothing that a file holds is run."""

import argparse
import copy
import enum
import io
import os
import pickle
import random
import re
import struct
import subprocess
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
from nemo_speechlm.interop.parts.encoder_config import _count, parse_layers
from nemo_speechlm.interop.reading.kinds import named_tensors
from nemo_speechlm.interop.reading.pickle_values import PickledObject
from nemo_speechlm.interop.reading.shown import shown
from nemo_speechlm.interop.reading.torch_file import read_torch_file

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
    "copies of a list": b"\x80\x02c__builtin__\nlist\nq\x000("
    + b"K\x00" * 10_000
    + b"lq\x01"
    + b"0h\x00h\x01\x85R" * 5000
    + b".",
    "copies of a string": b"\x80\x02X"
    + struct.pack("<I", 100_000)
    + b"a" * 100_000
    + b"q\x00c_codecs\nencode\nq\x01"
    + b"0h\x01h\x00X\x04\x00\x00\x00utf8\x86R" * 5000
    + b".",
    "a long tuple as key": b"\x80\x02}(" + b"K\x00" * 10_000 + b"tNs.",
    "a long string as key": b"\x80\x02}X" + struct.pack("<I", 20_000) + b"a" * 20_000 + b"Ns.",
    "a long number": b"\x80\x02\x8b" + struct.pack("<I", 10_000) + b"\x01" * 10_000 + b".",
    "a large number as key": b"\x80\x02}\x8a\x14" + b"\x01" * 20 + b"Ns.",
    "a long name": b"\x80\x02cfairseq\n" + b"a" * 2000 + b"\n.",
    "a long string in many places": b"\x80\x02(X"
    + struct.pack("<I", 1_000_000)
    + b"a" * 1_000_000
    + b"q\x00"
    + b"h\x00" * 5_000
    + b"l.",
}


def holding_itself(levels: int) -> bytes:
    """A pickled list that holds a list twice, which holds a list twice, and so on."""
    return b"\x80\x02]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(levels)) + b"."


def run_within(program: str, seconds: int = 60, megabytes: int = 600) -> None:
    """Run Python code in a process whose memory and processor time are limited once the package is imported."""
    limits = f"""
import resource
import sys
from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading.torch_file import read_torch_file
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {megabytes} * 2**20,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + {seconds},) * 2)
"""
    done = subprocess.run([sys.executable, "-c", limits + program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as on Linux")
def test_time_and_memory_are_bounded(tmp_path):
    """Where the text of a list that holds itself sixty deep would be asked for: storages, devices, classes."""
    whole = holding_itself(60)
    value, head = whole[2:-1], b"\x80\x02"  # what leaves the list on the stack
    legacy = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    (tmp_path / "keys.pt").write_bytes(legacy + pickle.dumps({}, 2) + whole)
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + value + b"X\x03\x00\x00\x00cpuK\x01tQ"
    parts = {
        "storage": storage,
        "device": b"ctorch\ndevice\n" + value + b"\x85R",
        "class": b"ccopy_reg\n_reconstructor\n" + value + b"\x85R",
        "value": value,
    }
    for name, part in parts.items():
        zip_with(head + part + b".", tmp_path / f"{name}.pt")
    for number, content in enumerate(HOSTILE.values()):
        zip_with(content, tmp_path / f"hostile {number}.pt")
    run_within(f"""
from pathlib import Path
for path in sorted(Path({str(tmp_path)!r}).iterdir()):
    try:
        read_torch_file(path)
    except InputError as error:
        assert len(error.reason) < 500, (path, len(error.reason))
    else:
        sys.exit(f"{{path}} was read")
""")


def test_parts_that_share_their_bytes(tmp_path):
    """A zip file whose entries are one and the same part of it: small on the disk, large in memory."""
    path = zip_with(b"\x80\x02}.", tmp_path / "x.pt", **{"0": bytes(100_000)})
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(1, 50):
            other = copy.copy(archive.getinfo("x/data/0"))
            other.filename = f"x/data/{number}"
            archive.filelist.append(other)
        archive._didModify = True
    with pytest.raises(InputError, match="two of them share their bytes"):
        read_torch_file(path)


def test_messages_are_short():
    assert shown([1, "a", None, {"b": 2.5}]) == "[1, 'a', None, {'b': 2.5}]"
    assert shown(torch.zeros(1000)) == "a tensor of shape (1000,)"
    nested: list = []
    for _ in range(90):
        nested = [nested, nested]
    assert len(shown({"a": [nested] * 1000, "b": "x" * 10**6})) <= 200


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(tmp_path, name):
    path = zip_with(HOSTILE[name], tmp_path / "x.pt")
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
    files = [save(content, folder / f"{zipped}.pt", zipped) for zipped in (True, False)]
    return [(file.read_bytes(), read_torch_file(file)) for file in files]


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 1), st.randoms(use_true_random=False), st.sampled_from(["cut", "flip", "splice", "insert"]))
def test_damaged_files(originals, tmp_path_factory, number, rng: random.Random, kind):
    original, content = originals[number]
    data = bytearray(original)
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
    with suppress(InputError) if kind != "cut" else pytest.raises(InputError):  # any other error is a failure
        read = read_torch_file(path)
        if number == 0:  # the parts of a zip file have checksums: what is read is what was written
            assert {key: read[key] for key in ("args", "list")} == {key: content[key] for key in ("args", "list")}
            assert read["model"].keys() == content["model"].keys()
            assert all(torch.equal(value, content["model"][key]) for key, value in read["model"].items())


def test_conversion_is_bounded_too():
    """Small settings, names and shapes that would ask for much."""
    for text in ("[(8,3,2)]" + " * 100" * 8, "9" * 2000, [[1] * 10**5] * 10**5, "(" * 900 + ")" * 900):
        with pytest.raises(InputError, match=r"expected \[\(channels, kernel, stride\)"):
            parse_layers(text)
    with pytest.raises(InputError, match="for 0, the first that is missing"):
        _count({"layers.99999999999.weight": torch.zeros(1)}, r"layers\.(\d+)\.weight")
    one = torch.zeros(1000)
    for weights, message in (
        ({f"{number}": one for number in range(100)}, "the same values more than 8 times"),
        ({"a": one, "b": torch.zeros(2**40, 0)}, r"its parameter b is of shape \(1099511627776, 0\)"),
    ):
        with pytest.raises(InputError, match=message):
            named_tensors(weights)

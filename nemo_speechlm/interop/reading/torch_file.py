"""PyTorch's ``.pt`` and ``.bin`` files, zip and legacy, read as data as ``safe_pickle`` does."""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading.pickle_values import Name, PickledObject
from nemo_speechlm.interop.reading.plain_values import LateTensor, as_plain
from nemo_speechlm.interop.reading.safe_pickle import Reader
from nemo_speechlm.interop.reading.shown import shortened

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_NUMPY_SCALARS = "biufS"
_MAX_DIMS = 64


def read_torch_file(path: str | Path) -> Any:
    """Read what ``torch.save`` wrote: tensors, containers, and objects of fairseq's as plain dicts or inert data.

    ``Namespace`` and omegaconf's containers become dicts and lists; any other object a :class:`PickledObject`.

    Time and memory that this takes, and that it takes to print or copy what comes back, grow with the file's size and
    no faster, whatever it holds.

    Raises:
        InputError: if the file is missing, damaged, of another format, refers to code that is not known to be
            harmless, or holds values in one another more often than a file of its size may. None of its code is run
            in any case.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                content, pickled = _read_zip(file, path.stat().st_size)
            else:
                file.seek(0)
                content, pickled = _read_legacy(file, path.stat().st_size)
        return as_plain(content, pickled)
    except InputError as error:
        raise InputError(error.reason, path) from None
    except FileNotFoundError:
        raise InputError("no such file", path) from None
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, struct.error) as error:
        raise InputError(f"cannot be read as a PyTorch file: {shortened(str(error))}", path) from None
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise InputError(f"damaged: {type(error).__name__}: {shortened(str(error))}", path) from None


class _Storage:
    """A storage that tensors are views of."""

    def __init__(self, dtype: torch.dtype, numel: int):
        self.dtype, self.numel = dtype, numel
        self.values: Tensor | None = None

    def fill(self, data: bytes | bytearray) -> None:
        if len(data) < self.numel * self.dtype.itemsize:
            raise InputError(f"damaged: a storage of {self.numel} {self.dtype} has only {len(data)} bytes")
        if not self.numel:
            self.values = torch.empty(0, dtype=self.dtype)
            return
        if self.dtype == torch.bool and np.frombuffer(data, dtype=np.uint8).max(initial=0) > 1:
            raise InputError("damaged: a truth value that is neither true nor false")
        self.values = torch.frombuffer(bytearray(data), dtype=self.dtype, count=self.numel)


def _read_zip(file: IO[bytes], size: int) -> tuple[Any, int]:
    """What is in it, and the size of its pickle."""
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in infos if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise InputError("is a zip file, but not one of PyTorch's (no data.pkl in it)")
        root = pickles[0].split("/")[0]
        for info in infos.values():  # torch.save never compresses: a small file stays small in memory
            if info.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"is not a zip file of PyTorch's: {shortened(info.filename)} is compressed")
        if sum(max(info.compress_size, info.file_size) for info in archive.infolist()) > size:
            raise InputError("damaged: its parts are larger than the file; two of them share their bytes")
        order = f"{root}/byteorder"
        if order in infos and archive.read(order) != b"little":
            raise InputError("was written on a big-endian machine; load and save it on a little-endian one")
        storages: dict[str, _Storage] = {}

        def storage(identity: Any) -> _Storage:
            dtype, key, numel = _identify(identity)
            if key not in storages:
                name = f"{root}/data/{key}"
                if name not in infos:
                    raise InputError(f"damaged: there is no storage {key}")
                storages[key] = _Storage(dtype, numel)
                storages[key].fill(archive.read(name))  # checks its checksum
            return storages[key]

        reader = _reader(storage, _view)
        return reader.read(BytesIO(archive.read(pickles[0]))), reader.size


def _read_legacy(file: IO[bytes], size: int) -> tuple[Any, int]:
    """What is in it, and the size of its pickle."""
    plain = Reader()
    try:
        if plain.read(file) != _LEGACY_MAGIC:
            raise InputError("no magic number")
    except InputError:
        raise InputError(
            "is not a PyTorch file, or is cut off: it is neither a zip file nor of the older format"
        ) from None
    if plain.read(file) != _LEGACY_VERSION:
        raise InputError("is of an unknown version of PyTorch's older format")
    system = plain.read(file)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise InputError("was written on a big-endian machine; load and save it on a little-endian one")
    storages: dict[str, _Storage] = {}
    views: list[LateTensor] = []

    def storage(identity: Any) -> _Storage:
        dtype, key, numel = _identify(identity)
        return storages.setdefault(key, _Storage(dtype, numel))

    def late(*arguments: Any) -> LateTensor:
        views.append(LateTensor(arguments))
        return views[-1]

    reader = _reader(storage, late)
    content = reader.read(file)
    keys = plain.read(file)
    named = isinstance(keys, list) and all(isinstance(key, str | int) for key in keys)
    if not named or sorted(map(str, keys)) != sorted(storages):
        raise InputError("damaged: its storages are not those that its tensors need")
    for key in keys:
        own = storages[str(key)]
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != own.numel:
            raise InputError(f"damaged: storage {key} has {numel} values, expected {own.numel}")
        length = numel * own.dtype.itemsize
        if length > size - file.tell():
            raise InputError(f"is cut off in storage {key}")
        own.fill(file.read(length))
    for view in views:
        view.tensor = _view(*view.arguments)
    return content, reader.size


def _identify(identity: Any) -> tuple[torch.dtype, str, int]:
    kind, dtype, key, _, numel, *_ = identity
    described = kind == "storage" and isinstance(dtype, torch.dtype) and isinstance(key, str | int)
    if not described or not isinstance(numel, int) or not 0 <= numel < 2**62:
        raise InputError("damaged: a storage that is not described as one")
    return dtype, str(key), numel


def _reader(storage: Callable[[Any], _Storage], view: Callable[..., Any]) -> Reader:
    calls: dict[str, Callable[..., Any]] = {
        "torch._utils._rebuild_tensor": view,
        "torch._utils._rebuild_tensor_v2": view,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        calls[f"{module}.scalar"] = _numpy_scalar
    calls["numpy.dtype"] = lambda *arguments: PickledObject("numpy.dtype", arguments)
    return Reader(calls, _torch_name, storage)


def _torch_name(name: Name) -> Any:
    if name.module == "torch" and name.name in _DTYPES:
        return _DTYPES[name.name]
    if name.module == "torch":
        value = getattr(torch, name.name, None)
        return value if isinstance(value, torch.dtype) else None
    return None


def _view(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, _Storage) or storage.values is None:
        raise InputError("damaged: a tensor without a storage")
    if not isinstance(size, tuple | list) or not isinstance(stride, tuple | list) or len(size) > _MAX_DIMS:
        raise InputError("damaged: a tensor of an impossible shape")
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or not all(isinstance(number, int) and 0 <= number < 2**62 for number in numbers):
        raise InputError("damaged: a tensor of an impossible shape")
    if 0 in size:
        return torch.empty(tuple(size), dtype=storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    values = 1
    for n in size:
        values *= n
    if last >= storage.numel or values > storage.numel:
        raise InputError(f"damaged: a tensor of shape {tuple(size)} in a storage of {storage.numel} values")
    return torch.as_strided(storage.values, tuple(size), tuple(stride), offset)


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    code = dtype.args[0] if isinstance(dtype, PickledObject) and dtype.args else None
    if not isinstance(code, str) or not re.fullmatch(f"[{_NUMPY_SCALARS}][0-9]{{1,9}}", code):
        raise InputError("damaged: a NumPy value of an unknown type")
    if not isinstance(data, bytes | str):
        raise InputError("damaged: a NumPy value without data")
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype=np.dtype(code).newbyteorder("<"), count=1)[0].item()

"""Random access to the lines of manifests that may not fit in memory, gzipped or at an address."""

import atexit
import gzip
import hashlib
import mmap
import os
import shutil
import tempfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from nemo_speechlm.data.manifests.kept_index import kept_index
from nemo_speechlm.errors import InputError
from nemo_speechlm.jobs.lines import LineIndex, index_lines
from nemo_speechlm.storage import fetch, is_url

GZIPPED_MOST = 1 << 30
"""Bytes of gzipped manifests, unpacked: no more is unpacked for a reader."""

_GRAIN = 8
"""Lines from one entry of the index to the next: 2 bytes of memory for a line, and few lines to pass by."""
_MAPPED = 256
"""Files that are open at once."""
_THREADS = 16


class IndexedManifest:
    """A manifest whose lines are read one by one; blank ones are left out.

    A plain file is mapped, so its lines cost no memory, and the index of a large one is kept beside it. One that is
    gzipped, or at an address, is first copied to a temporary folder.

    Args:
        path: UTF-8 text, gzipped if its name ends in ``.gz``; maybe an address.
        most: bytes that a gzipped one may have when it is unpacked.

    Attributes:
        path: for messages.
        unpacked: bytes that were unpacked.

    Raises:
        InputError: if the file is missing, cannot be unpacked, or is too large to be.
    """

    def __init__(self, path: str | Path, most: int = GZIPPED_MOST):
        self.path: str | Path = path if isinstance(path, str) and is_url(path) else Path(path)
        self.unpacked = 0
        source = self.path
        if is_url(source):
            source = _fetched(str(source))
        if source.name.endswith(".gz"):  # type: ignore[union-attr]
            source = _unpacked(Path(source), self.path, most)
            self.unpacked = source.stat().st_size
        try:
            if source is self.path:
                self._index: LineIndex = kept_index(source, _GRAIN)
            else:  # a copy that goes with the process
                self._index = index_lines(source, Path(), grain=_GRAIN, digest=False)
        except InputError as error:
            raise InputError(error.reason, self.path) from error

    def __len__(self) -> int:
        return self._index.total

    @property
    def state(self) -> tuple[int, int]:
        """Size and time of change of what is read, when it was indexed."""
        return self._index.state

    def __getitem__(self, row: int) -> tuple[int, str]:
        """The line's number in the file, counted from 1, and the line."""
        index = self._index
        number, raw = index.find(row, _mapped(str(index.path), index.state))
        try:
            return number, raw.decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"cannot be read as UTF-8 text: {error}", self.path, number) from error


class IndexedManifests:
    """The lines of several files in a row.

    Args:
        paths: of the files. All but one may be empty, as a shard is whose lines were all left out.

    Attributes:
        files: those that have lines.
        first: where in the row each file's lines begin, and the number of all lines at the end.

    Raises:
        InputError: if a file cannot be used, or there are no lines.
    """

    def __init__(self, paths: Iterable[str | Path]):
        paths = list(paths)
        _fetch_all([str(path) for path in paths if is_url(path)])
        found, left = [], GZIPPED_MOST
        for path in paths:
            found.append(IndexedManifest(path, left))
            left -= found[-1].unpacked
        self.files = [file for file in found if len(file)]
        if not self.files:
            raise InputError("the manifest is empty", paths[0] if paths else None)
        self.first = [0, *accumulate(map(len, self.files))]

    def __len__(self) -> int:
        return self.first[-1]

    def __getitem__(self, row: int) -> tuple[IndexedManifest, int, str]:
        """The file, the line's number in it, and the line."""
        position = bisect_right(self.first, row) - 1
        file = self.files[position]
        return file, *file[row - self.first[position]]


@lru_cache(maxsize=_MAPPED)
def _mapped(path: str, state: tuple[int, int]) -> mmap.mmap:
    """A file's content; a few files are kept open, whatever their number."""
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        if (found.st_size, found.st_mtime_ns) != state:
            raise InputError("was changed while it was read; start again", path)
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@lru_cache(maxsize=1)
def _folder(process: int) -> Path:
    """A folder for copies, which goes when the process ends that made it; those that were forked use it, too."""
    folder = Path(tempfile.mkdtemp(prefix="nemo_speechlm-"))

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _copy_of(path: str | Path, ending: str = "") -> Path:
    return _folder(os.getpid()) / (hashlib.sha256(str(path).encode()).hexdigest()[:32] + ending)


def _fetched(url: str) -> Path:
    """A copy of a file at an address."""
    copy = _copy_of(url, ".gz" if url.endswith(".gz") else ".json")
    if not copy.exists():
        fetch(url, copy)
    return copy


def _fetch_all(urls: list[str]) -> None:
    """Copy files from addresses, several at a time."""
    if urls:
        with ThreadPoolExecutor(min(_THREADS, len(urls))) as pool:
            list(pool.map(_fetched, dict.fromkeys(urls)))


def _unpacked(source: Path, path: str | Path, most: int) -> Path:
    """A gzipped file without gzip.

    Raises:
        InputError: if it cannot be unpacked, or holds more bytes than ``most``.
    """
    try:
        state = source.stat()
        copy = _copy_of(f"{source.resolve()} {state.st_size} {state.st_mtime_ns}")
        if copy.exists() and copy.stat().st_size <= most:
            return copy
        partial = copy.with_suffix(".partial")
        with gzip.open(source, "rb") as packed, open(partial, "wb") as file:
            while block := packed.read(1 << 22):
                most -= len(block)
                if most < 0:
                    partial.unlink()
                    raise InputError(
                        f"gzipped manifests of more than {GZIPPED_MOST >> 20} MB (unpacked) are not read in any "
                        "order: unpack them with gunzip, or divide them by make_tarred.py",
                        path,
                    )
                file.write(block)
    except FileNotFoundError as error:
        raise InputError("no such file", path) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read: {error}", path) from error
    partial.replace(copy)
    return copy

"""Random access to the lines of a manifest that may not fit in memory."""

import gzip
import mmap
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from nemo_speechlm.errors import InputError

_CHUNK = 1 << 26


class LineIndex:
    """Where each line of a text file starts, blank lines left out.

    A plain file is mapped, so its lines cost no memory. A gzipped one can only be read from its beginning: its content
    is kept in memory, shared by the data loader's workers where they are forked.

    Args:
        path: UTF-8 text, gzipped if its name ends in ``.gz``.

    Raises:
        InputError: if the file is missing, cannot be unpacked, or has no lines.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._data: bytes | mmap.mmap | None = None
        data = self._open()
        self._starts, self._numbers = _scan(data)
        if not len(self._starts):
            raise InputError("the manifest is empty", path)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int) -> tuple[int, str]:
        """The line's number in the file, counted from 1, and the line."""
        data = self._open()
        start = int(self._starts[row])
        end = data.find(b"\n", start)
        number = row + 1 if self._numbers is None else int(self._numbers[row])
        try:
            return number, bytes(data[start : end if end >= 0 else len(data)]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"cannot be read as UTF-8 text: {error}", self.path, number) from error

    def _open(self) -> bytes | mmap.mmap:
        if self._data is None:
            try:
                if self.path.name.endswith(".gz"):
                    self._data = gzip.decompress(self.path.read_bytes())
                elif self.path.stat().st_size == 0:
                    self._data = b""
                else:
                    with open(self.path, "rb") as file:
                        self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except FileNotFoundError as error:
                raise InputError("no such file", self.path) from error
            except (OSError, EOFError) as error:
                raise InputError(f"cannot be read: {error}", self.path) from error
        return self._data

    def __getstate__(self) -> dict[str, Any]:
        # A map does not travel between processes; the one that receives this opens the file again.
        return {**self.__dict__, "_data": None}


class LineIndexes:
    """The lines of several files in a row.

    Args:
        paths: of the files.

    Attributes:
        files: the index of each.
        first: where in the row each file's lines begin, and the number of all lines at the end.
    """

    def __init__(self, paths: Iterable[str | Path]):
        self.files = [LineIndex(path) for path in paths]
        self.first = [0, *accumulate(map(len, self.files))]

    def __len__(self) -> int:
        return self.first[-1]

    def __getitem__(self, row: int) -> tuple[LineIndex, int, str]:
        """The file, the line's number in it, and the line."""
        position = bisect_right(self.first, row) - 1
        file = self.files[position]
        return file, *file[row - self.first[position]]


def _scan(data: bytes | mmap.mmap) -> tuple[np.ndarray, np.ndarray | None]:
    """Offsets of the lines that are not blank, and their numbers, or None if no line is blank."""
    content = np.frombuffer(data, dtype=np.uint8)
    starts = [np.zeros(1, dtype=np.int64)]
    starts += [
        np.flatnonzero(content[begin : begin + _CHUNK] == ord("\n")) + (begin + 1)
        for begin in range(0, len(content), _CHUNK)
    ]
    offsets = np.concatenate(starts)
    offsets = offsets[offsets < len(content)]
    suspects = np.flatnonzero(content[offsets] <= ord(" "))  # a blank line begins with white space or its own end
    blank = [i for i in suspects if not data[int(offsets[i]) : _end(data, int(offsets[i]))].strip()]
    if not blank:
        return offsets, None
    numbers = np.delete(np.arange(1, len(offsets) + 1), blank)
    return offsets[numbers - 1], numbers


def _end(data: bytes | mmap.mmap, start: int) -> int:
    end = data.find(b"\n", start)
    return end if end >= 0 else len(data)

"""Where the lines of a file begin: found once in blocks, kept as two numbers for every 64 lines or so."""

import codecs
import gzip
import hashlib
import mmap
import os
import shutil
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemo_speechlm.errors import InputError, SpeechLMError

GRAIN = 64
"""Lines from one entry of an index to the next, for those who read many in a row."""

_BLOCK = 2 << 20
_THREADS = 4
_LINE_FEED, _RETURN = 10, 13
_MAY_BE_BLANK = np.zeros(256, dtype=bool)
"""First bytes of lines that may hold nothing but white space: ASCII's, and those that lead to Unicode's."""
_MAY_BE_BLANK[[9, 11, 12, 28, 29, 30, 31, 32, 0xC2, 0xE1, 0xE2, 0xE3]] = True


class _Block(NamedTuple):
    """What is found in a block of a file.

    Attributes:
        digest: of its bytes.
        starts: (N,) of lines that are not blank, from the file's beginning.
        ordinals: (N,) of these lines among all that start in the block, from 0.
        lines: how many lines start in the block, blank ones included.
    """

    digest: bytes
    starts: np.ndarray
    ordinals: np.ndarray
    lines: int


@dataclass(frozen=True)
class LineIndex:
    """Where lines that are not blank begin in a file.

    Attributes:
        path: the file, not gzipped.
        offsets: (G,) of every line that is a multiple of ``grain``, in bytes.
        numbers: (G,) the same lines' numbers in the file, from 1; blank lines count there.
        total: lines.
        digest: of the file's content.
        state: size and time of change of the file when it was read.
        grain: lines from one entry to the next.
    """

    path: Path
    offsets: np.ndarray
    numbers: np.ndarray
    total: int
    digest: str
    state: tuple[int, int]
    grain: int = GRAIN

    def save(self, folder: Path) -> None:
        """Write it for the workers, who may be on other machines."""
        head = np.array([self.total, *self.state, self.grain], dtype=np.int64)
        np.save(folder / "index.npy", np.concatenate([head, self.offsets, self.numbers]))
        (folder / "source.txt").write_text(f"{self.digest}\n{self.path}", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "LineIndex":
        """Read what :meth:`save` wrote; the numbers stay on the disk until they are asked for."""
        digest, _, path = (folder / "source.txt").read_text(encoding="utf-8").partition("\n")
        values = np.load(folder / "index.npy", mmap_mode="r")
        total, size, changed, grain = (int(value) for value in values[:4])
        offsets, numbers = np.split(values[4:], 2)
        return cls(Path(path), offsets, numbers, total, digest, (size, changed), grain)

    def read(self, first: int, last: int) -> Iterator[tuple[int, str | InputError]]:
        """Yield (line number, line) of the lines from ``first`` to the one before ``last``, counted from 0.

        In place of a line that is not UTF-8 stands the error.

        Raises:
            SpeechLMError: if the file has changed since it was indexed.
        """
        grain = first // self.grain
        position, number = grain * self.grain, int(self.numbers[grain])
        with open(self.path, "rb") as file:
            if _state(file.fileno()) != self.state:
                raise SpeechLMError(f"{self.path}: was changed while a job read it; run the command again")
            file.seek(int(self.offsets[grain]))
            for raw in file:
                for each in _universal(raw, number):
                    line = _decoded(each, self.path, number)
                    if isinstance(line, InputError) or line.strip():
                        if position >= first:
                            yield number, line
                        position += 1
                        if position >= last:
                            return
                    number += 1

    def find(self, row: int, content: bytes | mmap.mmap) -> tuple[int, bytes]:
        """The number of a line, counted from 1, and its bytes.

        Args:
            row: the line, counted from 0.
            content: of the file.
        """
        if not 0 <= row < self.total:
            raise IndexError(row)
        grain = row // self.grain
        position, number, begin = grain * self.grain, int(self.numbers[grain]), int(self.offsets[grain])
        while True:
            end = content.find(b"\n", begin) + 1 or len(content)
            raw = bytes(content[begin:end])
            for each in _universal(raw, number):
                if not _is_white(each):
                    if position == row:
                        return number, each
                    position += 1
                number += 1
            begin = end


def index_lines(
    source: str | Path, unpacked: Path, max_lines: int | None = None, grain: int = GRAIN, digest: bool = True
) -> LineIndex:
    """Find the lines of a text file.

    Takes 16 bytes of memory for every ``grain`` lines, and as long as reading and hashing the file do.

    Args:
        source: UTF-8 text, gzipped or not.
        unpacked: where a gzipped source is unpacked to, since only that can be read from the middle.
        max_lines: lines to look at that are not blank; None is all.
        grain: lines from one entry of the index to the next.
        digest: hash the content; otherwise the index has an empty digest.

    Raises:
        InputError: if the file cannot be read.
    """
    source = Path(source)
    path = source.resolve()
    try:
        if source.name.endswith(".gz"):
            with gzip.open(source, "rb") as packed, open(unpacked, "wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
            path = unpacked.resolve()
        with open(path, "rb") as file:
            return _index(path, file.fileno(), max_lines, grain, digest)
    except FileNotFoundError as error:
        raise InputError("no such file", source) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot be read as UTF-8 text: {error}", source) from error


def _index(path: Path, descriptor: int, max_lines: int | None, grain: int, hashed: bool) -> LineIndex:
    state = _state(descriptor)
    offsets, numbers, digest, total, before = [], [], hashlib.sha256(), 0, 0
    limit = np.inf if max_lines is None else max_lines
    for block in _blocks(descriptor, state[0], hashed):
        digest.update(block.digest)
        every = slice(-total % grain, None, grain)
        if total < limit:
            offsets.append(block.starts[every].copy())  # a view would keep the whole
            numbers.append(block.ordinals[every] + (before + 1))
        total += len(block.starts)
        before += block.lines
    digest.update(str(state[0]).encode())
    total = int(min(total, limit))
    kept = -(-total // grain)
    empty = np.zeros(0, dtype=np.int64)
    return LineIndex(
        path,
        np.concatenate([empty, *offsets])[:kept],
        np.concatenate([empty, *numbers])[:kept],
        total,
        digest.hexdigest() if hashed else "",
        state,
        grain,
    )


def _blocks(descriptor: int, size: int, hashed: bool) -> Iterator[_Block]:
    """What is in each block of a file, in order; some are looked at at once, for hashing and NumPy free the GIL."""
    pending: deque[Future[_Block]] = deque()
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, size, _BLOCK):
            pending.append(pool.submit(_look, descriptor, start, hashed))
            if len(pending) > _THREADS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _look(descriptor: int, start: int, hashed: bool) -> _Block:
    """Find the lines that start in a block."""
    data = os.pread(descriptor, _BLOCK, start) if start == 0 else os.pread(descriptor, _BLOCK + 1, start - 1)
    digest = hashlib.sha256(memoryview(data)[min(start, 1) :]).digest() if hashed else b""
    if start == 0:
        if data.startswith(codecs.BOM_UTF8):  # as white as it can be
            data = b" " * len(codecs.BOM_UTF8) + data[len(codecs.BOM_UTF8) :]
        data = b"\n" + data  # a line starts behind what ended the one before
    content = np.frombuffer(data, dtype=np.uint8)
    before, here = content[:-1], content[1:]
    begins = before == _LINE_FEED
    if b"\r" in data:
        begins |= (before == _RETURN) & (here != _LINE_FEED)
    starts = np.flatnonzero(begins)
    first = here[starts]
    blank = (first == _LINE_FEED) | (first == _RETURN)
    for i in np.flatnonzero(_MAY_BE_BLANK[first]):
        blank[i] = _is_blank(descriptor, data, int(starts[i]) + 1, start - 1)
    ordinals = np.flatnonzero(~blank)
    return _Block(digest, starts[ordinals] + start, ordinals, len(starts))


def _is_blank(descriptor: int, data: bytes, begin: int, offset: int) -> bool:
    """Whether a line is white space alone; it may go on behind the block."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    piece, position = data[begin : begin + 256], begin
    while piece:
        ends = [end for end in (piece.find(b"\n"), piece.find(b"\r")) if end >= 0]
        if decoder.decode(piece[: min(ends)] if ends else piece, final=bool(ends)).strip():
            return False
        if ends:
            return True
        position += len(piece)
        piece = os.pread(descriptor, 1 << 16, position + offset)
    return True


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns


def _universal(raw: bytes, number: int) -> list[bytes]:
    r"""A line, or several where \\r ends lines too; each ends in \\n, as Python's text files give them.

    The first of a file loses its byte order mark.
    """
    if number == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
    if b"\r" not in raw:
        return [raw]
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").splitlines(keepends=True)


def _is_white(line: bytes) -> bool:
    """Whether a line has nothing but white space, Unicode's included."""
    first = line[0] if line else _LINE_FEED
    if first in (_LINE_FEED, _RETURN):
        return True
    return bool(_MAY_BE_BLANK[first]) and not line.decode("utf-8", "replace").strip()


def _decoded(raw: bytes, path: Path, number: int) -> str | InputError:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return InputError(f"cannot be read as UTF-8 text: {error}", line=number)

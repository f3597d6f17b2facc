"""Files of chunks: the results of some lines, with the plan's digest, their number and a checksum.

A file is ``<first>-<last>.jsonl``: a header, a record for each line, and a footer. While it is made it has another
name, ``<first>-<last>.<attempt>.part``, and no footer; of one that was not finished, the whole batches are kept
(:func:`seal`). Who makes a file does not matter: the same lines of the same plan make the same bytes.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from nemo_speechlm.errors import OutputError, SpeechLMError

_NAME = re.compile(r"(\d+)-(\d+)(?:\.(\w+))?\.(jsonl|part)")


class Chunk(NamedTuple):
    """Lines of a job, from ``first`` to the one before ``last``, counted from 0 and without blank ones."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many lines."""
        return self.last - self.first


class BatchedLines:
    """The batches of a job's lines: they begin at multiples of ``size``, whichever lines a chunk has."""

    def __init__(self, size: int):
        self.size = size

    def begin(self, position: int) -> int:
        """Where the batch that has the line ``position`` begins; behind the last line, there."""
        return position // self.size * self.size

    def end(self, position: int, last: int) -> int:
        """Where the batch that has the line ``position`` ends, in a chunk that ends at ``last``."""
        return min(last, self.begin(position) + self.size)

    def of(self, chunk: Chunk) -> Iterator[Chunk]:
        """The batches of a chunk."""
        position = chunk.first
        while position < chunk.last:
            end = self.end(position, chunk.last)
            yield Chunk(position, end)
            position = end


class ListedBatches(BatchedLines):
    """Batches of different sizes.

    Args:
        ends: (N,) line behind the last one of each, rising; the last is the number of lines.
    """

    def __init__(self, ends: Sequence[int] | np.ndarray):
        self._ends = np.asarray(ends, dtype=np.int64)

    def begin(self, position: int) -> int:
        """See :class:`BatchedLines`."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        return int(self._ends[number - 1]) if number else 0

    def end(self, position: int, last: int) -> int:
        """See :class:`BatchedLines`."""
        return min(last, int(self._ends[np.searchsorted(self._ends, position, side="right")]))

    @property
    def digest(self) -> str:
        """Of where they end."""
        return hashlib.sha256(self._ends.tobytes()).hexdigest()


def chunk_path(folder: Path, chunk: Chunk) -> Path:
    """Where a finished chunk is."""
    return folder / f"{chunk.first:012d}-{chunk.last:012d}.jsonl"


def part_path(folder: Path, chunk: Chunk, attempt: str) -> Path:
    """Where a chunk is while an attempt makes it."""
    return folder / f"{chunk.first:012d}-{chunk.last:012d}.{attempt}.part"


class ChunkWriter:
    """Writes a chunk's file, a batch at a time, so that what was done before a kill is kept."""

    def __init__(self, folder: Path, plan: str, chunk: Chunk, attempt: str):
        self._path, self._part = chunk_path(folder, chunk), part_path(folder, chunk, attempt)
        self._chunk, self._count, self._sum = chunk, 0, hashlib.sha256()
        self._file = open(self._part, "wb", buffering=0)  # noqa: SIM115  # closed with this
        self._put(_header(plan, chunk))

    def write(self, lines: Sequence[bytes]) -> None:
        """Add the records of a batch."""
        batch = b"".join(lines)
        self._put(batch)
        self._sum.update(batch)
        self._count += len(lines)

    def _put(self, data: bytes) -> None:
        try:
            written = self._file.write(data)
            while written < len(data):  # the disk was full for a moment, or a signal came
                written += self._file.write(data[written:])
        except OSError as error:
            raise OutputError(self._path, error.strerror) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            assert self._count == self._chunk.size
            self._put(_footer(self._count, self._sum.hexdigest()))
        self._file.close()
        if kind is None:
            os.replace(self._part, self._path)


def read_chunk(folder: Path, plan: str, chunk: Chunk) -> list[bytes]:
    """The records of a chunk, a line each.

    Raises:
        SpeechLMError: if the file is not what was written. It is removed, so the same command makes it again.
    """
    path = chunk_path(folder, chunk)
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    records = lines[1:-1]
    footer = _footer(chunk.size, hashlib.sha256(b"".join(records)).hexdigest())
    if len(records) != chunk.size or lines[0] != _header(plan, chunk) or lines[-1] != footer:
        path.unlink(missing_ok=True)
        raise SpeechLMError(f"{path}: was damaged after it was written, and has been removed; run the command again")
    return records


def seal(path: Path, folder: Path, plan: str, chunk: Chunk, batches: BatchedLines) -> int:
    """Make a chunk file of the whole batches of a part that was not finished, and remove the part.

    Returns:
        the first line that is not in it.
    """
    position, lines, pending = chunk.first, [], []
    if path.exists():
        with open(path, "rb") as file:
            right = file.readline() == _header(plan, chunk)
            while right and _is_record(line := file.readline()) and position < chunk.last:
                pending.append(line)
                if position + len(pending) == batches.end(position, chunk.last):
                    position += len(pending)
                    lines += pending
                    pending = []
        if lines:
            with ChunkWriter(folder, plan, Chunk(chunk.first, position), "sealed") as writer:
                writer.write(lines)
        path.unlink(missing_ok=True)
    return position


def scan(folder: Path, plan: str, batches: BatchedLines, within: Chunk | None = None) -> list[Chunk]:
    """The finished chunks in a folder, none of which overlap; what is left of others is put to use or removed.

    Args:
        folder: with the files.
        plan: its digest.
        batches: of the job's lines.
        within: look at chunks of these lines alone: somebody else may be making the others.
    """
    for path, chunk, attempt in _files(folder, within):
        if attempt:
            seal(path, folder, plan, chunk, batches)
    found: list[Chunk] = []
    for path, chunk, _ in sorted(_files(folder, within), key=lambda item: (item[1].first, -item[1].last)):
        if (found and chunk.first < found[-1].last) or not _has_ends(path, plan, chunk):
            path.unlink()
        else:
            found.append(chunk)
    return found


def gaps(done: Iterable[Chunk], chunk: Chunk) -> list[Chunk]:
    """The lines of a chunk that none of others have; those are in order and do not overlap."""
    missing, position = [], chunk.first
    for each in done:
        if each.first > position:
            missing.append(Chunk(position, min(each.first, chunk.last)))
        position = max(position, each.last)
    if position < chunk.last:
        missing.append(Chunk(position, chunk.last))
    return [each for each in missing if each.size > 0]


def has_results(folder: Path) -> bool:
    """Whether there is a line of anybody's in chunk files; nothing is touched."""
    if not folder.is_dir():
        return False
    header = len(_header("0" * 64, Chunk(0, 0)))
    return any(not attempt or path.stat().st_size > 2 * header for path, _, attempt in _files(folder))


def count_done(folder: Path, within: Chunk) -> int:
    """How many of these lines are in finished chunks, for a progress bar; nothing is touched."""
    return sum(chunk.size for _, chunk, attempt in _files(folder, within) if not attempt)


def unfinished(folder: Path) -> list[tuple[Path, Chunk]]:
    """The files that attempts are making, or that they left, with all the lines that they are to have."""
    return [(path, chunk) for path, chunk, attempt in _files(folder) if attempt]


def count_records(path: Path) -> int:
    """How many whole lines behind the header a file that is being made has."""
    return max(0, path.read_bytes().count(b"\n") - 1)


def _files(folder: Path, within: Chunk | None = None) -> list[tuple[Path, Chunk, str | None]]:
    """(path, lines, attempt if it is a part) of the chunk files in a folder."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name:
                chunk = Chunk(int(name[1]), int(name[2]))
                if within is None or (within.first <= chunk.first and chunk.last <= within.last):
                    found.append((Path(entry.path), chunk, name[3]))
    return found


def _has_ends(path: Path, plan: str, chunk: Chunk) -> bool:
    """Whether a file has the header of this plan and some footer; the checksum is compared when it is read."""
    with open(path, "rb") as file:
        if file.readline() != _header(plan, chunk):
            return False
        file.seek(-min(len(_footer(chunk.size, "0" * 64)), path.stat().st_size), os.SEEK_END)
        return file.read().startswith(b'{"lines": %d, ' % chunk.size)


def _is_record(line: bytes) -> bool:
    """Whether a line is whole. After a power cut a file may end in zeros."""
    if not line.endswith(b"\n"):
        return False
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _header(plan: str, chunk: Chunk) -> bytes:
    return f'{{"plan": "{plan}", "first": {chunk.first}, "last": {chunk.last}}}\n'.encode()


def _footer(count: int, checksum: str) -> bytes:
    return f'{{"lines": {count}, "sha256": "{checksum}"}}\n'.encode()

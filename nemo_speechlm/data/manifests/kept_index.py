"""Where the lines of a large file begin, kept beside it, so that the next start need not read it whole."""

import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from nemo_speechlm.errors import InputError, OutputError
from nemo_speechlm.files import SETTLED, sync, whole_file
from nemo_speechlm.jobs.lines import LineIndex, index_lines

KEPT_FROM = 64 << 20
"""Bytes of a file whose index is kept; smaller ones are read in a blink."""

T = TypeVar("T")
State = tuple[int, int, int]
"""Of a file: its size, when its content was changed, and when anything about it was."""

_VERSION = 1
_HEAD = 7
"""Numbers before those of the index: version, size, two times of change, grain, lines, checksum."""


def index_path(source: Path) -> Path:
    """The hidden file beside ``source`` that keeps its index."""
    return source.with_name(f".{source.name}.lines.npy")


def kept_index(source: str | Path, grain: int) -> LineIndex:
    """Where the lines of a plain text file begin, without a digest.

    Of a file of :data:`KEPT_FROM` bytes or more the index is kept in :func:`index_path` where that can be written, and
    is read from there as long as the file has its size and its times of change; not of a file that was changed within
    the last two seconds. It is mapped, so processes of one machine share its memory.

    Args:
        source: UTF-8 text, not gzipped.
        grain: lines from one entry of the index to the next.

    Raises:
        InputError: if the file cannot be read.
    """
    path = Path(source).resolve()
    index, _ = kept_beside(
        path,
        lambda state: _read(path, state, grain),
        lambda: index_lines(source, Path(), grain=grain, digest=False),
        _write,
    )
    return index


def kept_beside(
    path: Path, read: Callable[[State], T | None], make: Callable[[], T], write: Callable[[T, State], None]
) -> tuple[T, bool]:
    """What is made of a large file, or what was kept of it, and whether it was.

    Nothing is kept of a file of less than :data:`KEPT_FROM` bytes, or of one that was changed within the last two
    seconds or meanwhile; and nothing where it cannot be written.

    Args:
        path: the file.
        read: given its state, what is kept and belongs to it; None if nothing does.
        make: reads the file.
        write: keeps what was made, with the state.
    """
    before = _state(path)
    kept = before[0] >= KEPT_FROM
    if kept and (found := read(before)) is not None:
        return found, True
    settled = time.time_ns() - before[2] > SETTLED
    made = make()
    if kept and settled and _state(path) == before:
        with suppress(InputError, OutputError):  # a folder that is only read, a full disk, another process
            write(made, before)
    return made, False


def _state(path: Path) -> State:
    """Size, time of change of the content, and of anything about the file, which no copying program sets back.

    Zeros where there is none that can be looked at: :func:`index_lines` says what is wrong.
    """
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path, state: State, grain: int) -> LineIndex | None:
    """What is kept, or None if there is none that belongs to the file, or it is damaged."""
    try:
        values = np.load(index_path(path), mmap_mode="r", allow_pickle=False)
        head, body = values[:_HEAD].tolist(), np.asarray(values[_HEAD:])  # a memmap takes longer for each number
        total, checksum = head[5:]
        entries = -(-total // grain)
    except (OSError, ValueError, EOFError, IndexError):
        return None
    if head[:5] != [_VERSION, *state, grain] or len(body) != 2 * entries or _checksum(body) != checksum:
        return None
    return LineIndex(path, body[:entries], body[entries:], total, "", state[:2], grain)


def _write(index: LineIndex, state: State) -> None:
    body = np.concatenate([index.offsets, index.numbers])
    head = np.array([_VERSION, *state, index.grain, index.total, _checksum(body)], dtype=np.int64)
    with whole_file(index_path(index.path)) as partial:
        with open(partial, "wb") as file:  # np.save would add its ending to another name
            np.save(file, np.concatenate([head, body]))
        sync(partial)


def _checksum(body: np.ndarray) -> int:
    return zlib.crc32(body.data)

"""Where the lines of a large file begin, kept beside it, so that the next start need not read it whole."""

import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from nemo_speechlm.errors import InputError, OutputError
from nemo_speechlm.files import SETTLED, sync, whole_file
from nemo_speechlm.jobs.lines import LineIndex, index_lines

KEPT_FROM = 64 << 20
"""Bytes of a file whose index is kept; smaller ones are read in a blink."""

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
    before = file_state(path)
    kept = before[0] >= KEPT_FROM
    if kept and (found := _read(path, before, grain)) is not None:
        return found
    settled = time.time_ns() - before[2] > SETTLED
    index = index_lines(source, Path(), grain=grain, digest=False)
    if kept and settled and file_state(path) == before:
        with suppress(InputError, OutputError):  # a folder that is only read, a full disk, another process
            _write(index, before)
    return index


def file_state(path: Path) -> tuple[int, int, int]:
    """Size, time of change of the content, and of anything about the file, which no copying program sets back.

    Zeros where there is none that can be looked at: :func:`index_lines` says what is wrong.
    """
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path, state: tuple[int, int, int], grain: int) -> LineIndex | None:
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


def _write(index: LineIndex, state: tuple[int, int, int]) -> None:
    body = np.concatenate([index.offsets, index.numbers])
    head = np.array([_VERSION, *state, index.grain, index.total, _checksum(body)], dtype=np.int64)
    with whole_file(index_path(index.path)) as partial:
        with open(partial, "wb") as file:  # np.save would add its ending to another name
            np.save(file, np.concatenate([head, body]))
        sync(partial)


def _checksum(body: np.ndarray) -> int:
    return zlib.crc32(body.data)

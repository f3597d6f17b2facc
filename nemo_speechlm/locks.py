"""One process at a time writes a file: a lock that the system lets go of when its holder ends, however it ends."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from nemo_speechlm.errors import InputError

_REFUSAL = "another process is making it ({holder}); wait until that has ended, or give another output"


def real_path(path: str | Path) -> Path:
    """The file that is written where ``path`` is a link to one, which may be missing; else ``path`` itself."""
    path = Path(path)
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError):  # links in a circle
        return path


def lock_path(path: str | Path) -> Path:
    """The hidden file, beside the one itself, that is locked while ``path`` is being made; else it is not there."""
    path = real_path(path)
    return path.with_name(f".lock.{path.name}")


@contextmanager
def only_writer(path: str | Path, wait: float = 0.0, refusal: str = _REFUSAL) -> Iterator[None]:
    """Keep other processes from making the file ``path`` until the block ends; a process may hold it several times.

    Args:
        path: the file, or, of an output with several, the one that is there last.
        wait: seconds to wait for another process to finish.
        refusal: of the error's message; ``{holder}`` stands for the other process.

    Raises:
        InputError: if another process is making it, after the wait; with its host, number and start.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # a tenth of the time of every command's --help

    lock_file = lock_path(path)
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file, is_singleton=True)
    try:
        lock.acquire(timeout=wait, blocking=wait > 0)
    except Timeout:
        holder = _holder(lock_file)
        # Where the file system has no locks, or its server keeps them, that of a machine that went down stays.
        elsewhere = any(map(str.isdigit, holder)) and socket.gethostname() not in holder
        way_out = f"; if it runs no longer, since that machine went down, remove {lock_file}" if elsewhere else ""
        raise InputError(refusal.format(holder=holder) + way_out, path) from None
    outermost = lock.lock_counter == 1
    try:
        # a soft lock (on file systems without locks) keeps its own notes in the file
        if outermost and not isinstance(lock, SoftFileLock):
            started = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            lock_file.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {started}", encoding="utf-8")
        yield
    finally:
        if outermost:  # before the lock is let go of: afterwards the file may be another's
            lock_file.unlink(missing_ok=True)
        lock.release()


def _holder(lock_file: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return " ".join(lock_file.read_text(encoding="utf-8").split()) or "it has just begun"
    return "it has just ended"

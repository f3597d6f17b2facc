"""Reading and writing files without losing what was there before."""

import gzip
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nemo_speechlm.errors import InputError


def open_text(path: str | Path, mode: str = "r") -> IO[str]:
    """Open a UTF-8 text file, through gzip where its name ends in ``.gz``."""
    if str(path).endswith(".gz"):
        if mode == "w":  # without name and time in it, so that equal texts make equal files
            return io.TextIOWrapper(_Gzip(path), encoding="utf-8")  # type: ignore[type-var, return-value]
        return gzip.open(path, mode + "t", encoding="utf-8")  # type: ignore[return-value]
    return open(path, mode, encoding="utf-8")


class _Gzip(gzip.GzipFile):
    """A file that is written with the same header whenever and wherever it is written."""

    def __init__(self, path: str | Path):
        self._file = open(path, "wb")  # noqa: SIM115  # closed with this
        super().__init__("", "wb", compresslevel=6, fileobj=self._file, mtime=0)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._file.close()


def iter_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a text file that may be gzipped, blank lines left out."""
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except FileNotFoundError as error:
        raise InputError("no such file", path) from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as UTF-8 text: {error}", path) from error


def partial_path(path: str | Path) -> Path:
    """Where a file is built before it is renamed to ``path`` (the ending stays, so that ``.gz`` is still seen)."""
    path = Path(path)
    return path.with_name(f".partial.{path.name}")


@contextmanager
def atomic_write(path: str | Path, before_rename: Callable[[Path], None] | None = None) -> Iterator[IO[str]]:
    """Open a text file for writing that takes the name ``path`` only when the block ends without an error.

    ``before_rename`` is called with the finished file under its other name; what it raises keeps the file from being.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with open_text(partial, "w") as file:
            yield file
        if before_rename is not None:
            before_rename(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give another name to write to; the file takes the name ``path`` only when the block ends without an error.

    Raises:
        InputError: if it cannot be written there.
    """
    path = Path(path)
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot be written: {error}", path) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def refuse_overwrite(path: str | Path, overwrite: bool, option: str = "overwrite=true") -> None:
    """Raise unless ``path`` is free or the user asked to overwrite it, by the option that the message names."""
    if Path(path).exists() and not overwrite:
        raise InputError(f"exists already; give another output, or {option} to replace it", path)

"""Writing checkpoints so that a kill, a power cut or a full disk leaves a whole one behind; telling damaged ones.

A checkpoint is written beside its place under another name, brought to the disk and renamed. The last checkpoint is
kept in two generations: the newest under NeMo's name (``...-last.ckpt``), the one before with ``.previous`` behind it.

The checksums are those that ``torch.save`` writes: its files are zip archives with a CRC-32 of every part. So
checkpoints of earlier versions are checked as well.
"""

import os
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from nemo.utils import logging

from nemo_speechlm.files import partial_path, sync

PREVIOUS = ".previous"

_FOLDER = 0x10  # in a zip's table of contents; torch's reader gives such a part no content, Python's reader ignores it
_LAST = re.compile(r"last(-v\d+)?\.ckpt(\.previous)?$")


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's files of ``torch.save``, written whole or not at all.

    An error of the system, such as a full disk, is a warning: the checkpoints that are there stay, and training goes
    on. What was not written is listed in :attr:`failed`.

    Attributes:
        failed: paths that could not be written, to be emptied by whoever reads it.
    """

    def __init__(self) -> None:
        self.failed: list[str] = []
        self._replaced_by_nothing = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint, and keep the last one of before as ``.previous``."""
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            _write(checkpoint, Path(path))
        except OSError as error:
            self.failed.append(str(path))
            self._replaced_by_nothing = True
            logging.warning(
                f"The checkpoint {path} could not be written ({error.strerror or error}). Training goes on, and the "
                "checkpoint before is kept; what is learned from now on is lost if the run ends before one is written"
            )
            return
        self._replaced_by_nothing = False

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, unless it is a last one (see :func:`_write`) or what replaces it was not written."""
        if self._replaced_by_nothing or (is_last(path) and Path(path).is_file()):
            return
        super().remove_checkpoint(path)


def is_last(path: str | Path) -> bool:
    """Whether the name is that of a last checkpoint, in any generation."""
    return _LAST.search(str(path)) is not None


def damage(path: Path, contents: bool = True) -> str | None:
    """What is wrong with a checkpoint; None if nothing is.

    Args:
        path: a file of ``torch.save``.
        contents: read all of it and compare checksums; False finds files that were cut off, in no time.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip() if contents else None
            folders = [info.filename for info in archive.infolist() if info.external_attr & _FOLDER]
    except zipfile.BadZipFile as error:
        return f"it is cut off or no checkpoint ({error})"
    except (OSError, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error) as error:
        return f"it cannot be read ({error})"
    if folders:
        return f"its part {folders[0]} is marked as a folder"
    if part is not None:
        return f"the checksum of its part {part} is wrong"
    try:
        look_into(path)
    except Exception as error:  # of torch's own reader and of unpickling: anything
        return f"it cannot be read ({type(error).__name__}: {str(error)[:200]})"
    return None


def look_into(path: str | Path) -> dict[str, Any]:
    """A checkpoint of a run's own whose tensors are read only when they are asked for."""
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint to the disk under its name; a last one pushes that of before into the second generation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with open(partial, "wb") as file:
            _dump(checkpoint, file)
            os.fsync(file.fileno())
        if is_last(path) and path.exists():
            os.replace(path, f"{path}{PREVIOUS}")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)
    if is_last(path):
        _keep_one_before(path)


def _dump(checkpoint: dict[str, Any], file: IO[bytes]) -> None:
    """``torch.save``, but an error of the system comes out as such; it would be a RuntimeError about archives."""
    noting = _Noting(file)
    try:
        torch.save(checkpoint, noting)  # type: ignore[arg-type]
        file.flush()
    except Exception:
        if noting.error is not None:
            raise noting.error from None
        raise


class _Noting:
    """A file that remembers the first error of writing to it."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = self.error or error
            raise


def _keep_one_before(path: Path) -> None:
    """Of the other last checkpoints beside ``path`` the newest is kept, as ``.previous``."""
    others = [
        other
        for other in path.parent.iterdir()
        if other != path and is_last(other.name) and not other.name.startswith(".") and other.is_file()
    ]
    others.sort(key=lambda other: other.stat().st_mtime_ns)
    for other in others[:-1]:
        other.unlink()
    for other in others[-1:]:
        if other.suffix != PREVIOUS:
            os.replace(other, f"{other}{PREVIOUS}")

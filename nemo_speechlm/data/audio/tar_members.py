"""Random access to the audio files inside tar files."""

import tarfile
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from nemo_speechlm.errors import InputError

_TARS = 256
"""Tar files whose members are remembered, some 150 bytes for each."""


def read_member(path: str | Path, name: str) -> BytesIO:
    """Read one file of a tar.

    The headers of a tar are read once, when it is first asked for; a file is then read without those before it.

    Raises:
        InputError: if the tar cannot be read or has no file of this name.
    """
    place = tar_members(str(path)).get(name)
    if place is None:
        raise InputError(f"no file {name!r} in it", path)
    offset, size = place
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise InputError(f"ends within {name!r}", path)
    return BytesIO(content)


@lru_cache(maxsize=_TARS)
def tar_members(path: str) -> dict[str, tuple[int, int]]:
    """The files of a tar, uncompressed: name to (offset of its content, size), both in bytes.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            return {info.name: (info.offset_data, info.size) for info in tar if info.isfile()}
    except FileNotFoundError as error:
        raise InputError("no such tar file", path) from error
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"not a tar file that can be read: {error}", path) from error

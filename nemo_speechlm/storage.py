"""Files at addresses, such as ``s3://bucket/key``: opened by smart_open, as NeMo and Lhotse do.

S3 needs the extra ``s3``. Its keys, region and server are those of every AWS program: ``AWS_ACCESS_KEY_ID``,
``AWS_PROFILE``, ``AWS_ENDPOINT_URL`` and so on.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from nemo_speechlm.errors import InputError

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://")
SCHEMES = ("s3", "gs", "azure", "http", "https")
"""Addresses that we read; whatever else stands before ``://`` is left to NeMo."""
WRITABLE = ("s3", "gs", "azure")
"""Stores in which a file is there when all of it is there."""

_MISSING = ("NoSuchKey", "NoSuchBucket", "404", "NotFound", "Not Found", "BlobNotFound")


def scheme_of(path: str | Path) -> str | None:
    """What stands before ``://``; None if it is a path of this machine."""
    found = _URL.match(path) if isinstance(path, str) else None
    return None if found is None else found[1]


def is_url(path: str | Path) -> bool:
    """Whether a path is an address."""
    return scheme_of(path) is not None


def join(folder: str | Path, name: str) -> str:
    """The file of a name in a folder, which may be an address."""
    return f"{str(folder).rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def parent(path: str | Path) -> str:
    """The folder that a file is in, which may be an address."""
    return str(path).rpartition("/")[0] if is_url(path) else str(Path(path).parent)


def open_url(url: str, mode: str = "rb") -> IO[bytes]:
    """Open a file at an address, to read or write its bytes as they are.

    Raises:
        InputError: if it cannot be read or written there.
    """
    return _open(url, mode)


def read_range(url: str, begin: int, size: int) -> bytes:
    """Some bytes of a file at an address, fewer if it ends before.

    Raises:
        InputError: if it cannot be read.
    """
    with told(url):
        exact = {"range_chunk_size": size, "buffer_size": size} if scheme_of(url) == "s3" else {}
        with _open(url, "rb", defer_seek=True, **exact) as file:
            file.seek(begin)
            return file.read(size)


def exists(url: str) -> bool:
    """Whether there is a file at an address.

    Raises:
        InputError: if that cannot be found out.
    """
    try:
        read_range(url, 0, 1)
    except InputError as error:
        if error.reason == _NONE:
            return False
        raise
    return True


def fetch(url: str, path: Path) -> None:
    """Copy a file from an address; it has its name when all of it is there.

    Raises:
        InputError: if it cannot be read.
    """
    partial = path.with_name(f".partial.{path.name}")
    with told(url), _open(url, "rb") as there, open(partial, "wb") as file:
        shutil.copyfileobj(there, file, 1 << 20)
    partial.replace(path)


def upload(path: Path, url: str) -> None:
    """Copy a file to an address; it is there when all of it is there.

    Raises:
        InputError: if it cannot be written.
    """
    with told(url, "written"), open(path, "rb") as file, _open(url, "wb") as there:
        shutil.copyfileobj(file, there, 1 << 20)


_NONE = "no such file"


@contextmanager
def told(url: str, done: str = "read") -> Iterator[None]:
    """Turn any error inside the block into an InputError that names the address."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each store has its own
        code = _code(error)
        if code in _MISSING or isinstance(error, FileNotFoundError):
            raise InputError(_NONE, url) from error
        if isinstance(error, ImportError) or "pip install" in str(error):
            raise InputError(
                f"{scheme_of(url)}:// needs a library that is not installed: pip install 'nemo_speechlm[s3]' for s3, "
                f"smart_open[{scheme_of(url)}] for others",
                url,
            ) from error
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot be {done}: {said}", url) from error


def _code(error: BaseException | None) -> str | None:
    """The code of a store's answer, where there is one."""
    while error is not None:
        inner = getattr(error, "backend_error", None) or error
        response = getattr(inner, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
        if getattr(response, "status_code", None) is not None:
            return str(response.status_code)  # type: ignore[union-attr]
        error = error.__cause__ or error.__context__
    return None


def _open(url: str, mode: str, **options: Any) -> Any:
    scheme = scheme_of(url)
    known = WRITABLE if "w" in mode else SCHEMES
    if scheme not in known:
        *others, last = known
        raise InputError(f"{scheme}:// is not known; expected {', '.join(others)} or {last}", url)
    with told(url, "written" if "w" in mode else "read"):
        import smart_open  # opens hundreds of modules; most commands have no addresses

        if scheme == "s3":
            options = {**options, "client": _client(os.getpid())}
        else:
            options = {}
        return smart_open.open(url, mode, compression="disable", transport_params=options)


@lru_cache(maxsize=1)
def _client(process: int) -> Any:
    """The client of this process: a forked one cannot use its parent's connections."""
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=32))

"""Archives of corpora: checked, and unpacked once."""

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write, dump_line, iter_lines, partial_path
from nemo_speechlm.locks import only_writer

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Of archives that are unpacked."""
_SUMS = ("sha256sum.txt", "SHA256SUMS", "md5sum.txt", "MD5SUMS", "checksums.txt")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{32}")


def is_archive(path: str | Path) -> bool:
    """Whether a path names an archive, by its ending."""
    return str(path).endswith(SUFFIXES)


def check_digest(path: str | Path, digest: str) -> None:
    """Check a file's SHA-256 or, where the digest has 32 digits, its MD5.

    Raises:
        InputError: if it is another.
    """
    kind = "md5" if len(digest) == 32 else "sha256"
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from error
    if found != digest.lower():
        raise InputError(f"its {kind} is {found}, expected {digest.lower()}: it is damaged, or another file", path)


def published_digest(archive: str | Path, checksums: str | Path | None = None) -> str | None:
    """The digest that a list of checksums, as ``sha256sum`` or ``md5sum`` print it, has of an archive.

    Args:
        archive: the file.
        checksums: the list; None: ``<archive>.sha256``, ``<archive>.md5``, ``md5sum.txt``, ``SHA256SUMS`` or the like
            beside it, if there is one.

    Returns:
        the digest, or None if no list names the archive.

    Raises:
        InputError: if ``checksums`` is given and does not name it.
    """
    archive = Path(archive)
    beside = [archive.with_name(f"{archive.name}{suffix}") for suffix in (".sha256", ".md5")]
    lists = [Path(checksums)] if checksums is not None else [*beside, *(archive.with_name(name) for name in _SUMS)]
    for path in lists:
        if checksums is None and not path.is_file():
            continue
        for _, line in iter_lines(path):
            digest, *name = line.split(maxsplit=1)
            named = Path(name[0].strip().lstrip("*")).name if name else ""
            if _DIGEST.fullmatch(digest) and (named == archive.name or (not named and path in beside)):
                return digest
    if checksums is not None:
        raise InputError(f"has no SHA-256 or MD5 of {archive.name}", checksums)
    return None


def unpack(archives: Sequence[str | Path], folder: str | Path, checksums: str | Path | None = None) -> list[str]:
    """Unpack archives into a folder, each once; an interrupted one, the same file, goes on with what is missing.

    Args:
        archives: tar files, compressed or not.
        folder: made if it is not there.
        checksums: see :func:`published_digest`.

    Returns:
        what a user should know: archives without a checksum.

    Raises:
        InputError: if an archive is missing, damaged, has another checksum, or a member that would leave the folder.
    """
    notes = []
    for archive in map(Path, archives):
        if not archive.is_file():
            raise InputError("no such file", archive)
        state = archive.stat()
        done = Path(folder) / f".unpacked.{archive.name}.json"
        mark = dump_line({"bytes": state.st_size, "changed": state.st_mtime})
        if done.is_file() and done.read_text(encoding="utf-8") == mark:
            continue
        digest = published_digest(archive, checksums)
        if digest is None:
            notes.append(f"{archive}: not checked, no checksum of it beside it (checksums= names a list)")
        else:
            check_digest(archive, digest)
        with only_writer(done):
            begun = done.with_name(f".unpacking.{archive.name}.json")
            goes_on = begun.is_file() and begun.read_text(encoding="utf-8") == mark
            if not goes_on:
                with atomic_write(begun) as file:
                    file.write(mark)
            _unpack(archive, Path(folder), goes_on)
            with atomic_write(done) as file:
                file.write(mark)
            begun.unlink()
    return notes


def _unpack(archive: Path, folder: Path, goes_on: bool) -> None:
    """Unpack an archive; where that goes on, files of the right size stay, others' files of that size do not."""
    name = "its beginning"
    try:
        with tarfile.open(archive, "r|*") as tar, tqdm(desc=f"unpack {archive.name}", unit="file") as bar:
            for member in tar:
                name = member.name
                tar.members = []  # type: ignore[attr-defined]  # it would keep all of them
                safe = tarfile.data_filter(member, str(folder))
                target = folder / safe.name
                if safe.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif safe.isfile() and not (goes_on and target.is_file() and target.stat().st_size == safe.size):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    partial = partial_path(target)
                    content = tar.extractfile(member)
                    assert content is not None
                    with content, open(partial, "wb") as file:
                        shutil.copyfileobj(content, file)
                    os.replace(partial, target)
                bar.update()
    except tarfile.FilterError as error:
        raise InputError(f"{error}; nothing of it is unpacked outside {folder}", archive) from error
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise InputError(f"cannot be unpacked: {error} (at {name})", archive) from error

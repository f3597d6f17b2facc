"""Reading and writing files without losing what was there before."""

import errno
import gzip
import hashlib
import io
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from nemo_speechlm.errors import InputError, OutputError, SpeechLMError
from nemo_speechlm.locks import only_writer, real_path
from nemo_speechlm.storage import is_url, open_url

SETTLED = 2_000_000_000
"""Nanoseconds after which a file's time of change is trusted to tell it from a newer one."""

FILE_KEYS = (
    # data
    "manifest_filepath", "phones_manifest_filepath", "tarred_audio_filepaths", "file", "bigram_manifests",
    "noise_path", "rir_path", "input_cfg", "cuts_path", "shar_path", "cache",
    # weights at the start
    "init_from_pretrained", "pretrained_from", "init_from", "recipe",
    # units, phones, tokens
    "units", "text_units", "phones", "lexicon", "dir", "model_path", "vocab_path", "spe_tokenizer_vocab",
)  # fmt: skip
"""Keys of configs whose values are files or folders."""


def open_text(path: str | Path, mode: str = "r") -> IO[str]:
    """Open a UTF-8 text file, through gzip where its name ends in ``.gz``; one at an address can be read.

    A byte order mark at its beginning, which some editors write, is no part of the text.
    """
    encoding = "utf-8-sig" if mode == "r" else "utf-8"
    if is_url(path):
        file: Any = open_url(str(path), mode + "b")
        return io.TextIOWrapper(gzip.GzipFile(fileobj=file) if str(path).endswith(".gz") else file, encoding=encoding)
    if str(path).endswith(".gz"):
        if mode == "w":  # without name and time in it, so that equal texts make equal files
            return io.TextIOWrapper(_Gzip(path), encoding="utf-8")  # type: ignore[type-var, return-value]
        return gzip.open(path, mode + "t", encoding=encoding)  # type: ignore[return-value]
    return open(path, mode, encoding=encoding)


class _Gzip(gzip.GzipFile):
    """A gzip file whose header holds no name and no time, so equal texts make equal files."""

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
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as UTF-8 text: {error}", path) from error


def file_digest(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, as ``sha256sum`` prints it; read a block at a time.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path) from error


def content_of(path: str | Path, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What tells whether a file is still the same: ``path``, ``size``, ``mtime_ns``, ``sha256``, ``read_ns``.

    Args:
        path: of the file.
        known: what this has returned for the same path earlier: a file of that size and time of change is not read
            again. A file that was changed within two seconds before it was read is.
    """
    path, known = Path(path), known or {}
    status = path.stat()
    found = {"path": str(path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    same = "sha256" in known and all(known.get(key) == value for key, value in found.items())
    if same and known["mtime_ns"] + SETTLED < known["read_ns"]:
        return {**found, "read_ns": known["read_ns"], "sha256": known["sha256"]}
    return {**found, "read_ns": time.time_ns(), "sha256": file_digest(path)}


def shown(path: str | Path) -> str:
    r"""A path as text that can be printed and written: bytes of a name that are not UTF-8 stand as ``\xe9``."""
    return os.fsencode(path).decode(errors="backslashreplace")


def files_below(folder: str | Path) -> Iterator[Path]:
    """What is below a folder, folders themselves apart, in no order.

    Links to folders are followed, but for those to a folder that is looked at anyway.
    """
    home, followed = Path(folder).resolve(), set()
    for place, folders, names in os.walk(folder, followlinks=True):
        yield from (Path(place, name) for name in names)
        for link in [path for path in (Path(place, name) for name in sorted(folders)) if path.is_symlink()]:
            target = link.resolve()
            if target.is_relative_to(home) or home.is_relative_to(target) or target in followed:
                folders.remove(link.name)
            followed.add(target)


def is_hidden(path: str | Path) -> bool:
    """Whether a part of a path begins with a dot, as of locks, files that are being written, files that NFS keeps."""
    return any(part.startswith(".") and part != ".." for part in Path(path).parts)


def shown_files(folder: Path) -> list[Path]:
    """The files below a folder, in order, without hidden ones, which come and go."""
    found = (path for path in folder.rglob("*") if not is_hidden(path.relative_to(folder)))
    return sorted(path for path in found if path.is_file())


def sync(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, so that a power cut does not undo them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not Path(path).is_dir():  # some network file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)


def partial_path(path: str | Path) -> Path:
    """Where a file is built before it is renamed to ``path`` (the ending stays, so that ``.gz`` is still seen)."""
    path = Path(path)
    return path.with_name(f".partial.{path.name}")


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no more room to write to."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def room_for(path: str | Path) -> Iterator[None]:
    """Turn the error of a full disk into an :class:`OutputError`; where a write fails, Python names no file."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise OutputError(path, error.strerror) from error


@contextmanager
def atomic_write(path: str | Path, before_rename: Callable[[Path], None] | None = None) -> Iterator[IO[str]]:
    """Open a text file for writing that takes the name ``path`` only when the block ends without an error.

    Args:
        path: the file. If it is a link, the file that it leads to is written, and the link stays.
        before_rename: called with the finished file under its other name; if it raises, the file is not created.

    Raises:
        InputError: if another process is writing the file.
        OutputError: if the disk is full.
    """
    path = real_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    with room_for(path), only_writer(path):
        try:
            with open_text(partial, "w") as file:
                yield file
            if before_rename is not None:
                before_rename(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what is raised while a file is written into an :class:`OutputError`: libraries have errors of their own."""
    try:
        yield
    except SpeechLMError:
        raise
    except Exception as error:
        raise OutputError(path, getattr(error, "strerror", None) or error) from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give another name to write to; the file takes the name ``path`` only when the block ends without an error.

    Of a link, the file that it leads to is written, as by :func:`atomic_write`.

    Raises:
        InputError: if it cannot be written there, or another process is writing it.
        OutputError: if the disk is full.
    """
    path = real_path(path)
    partial = partial_path(path)
    try:
        with room_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with only_writer(path):
                try:
                    yield partial
                    os.replace(partial, path)
                finally:
                    with suppress(OSError):
                        partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot be written: {error}", path) from error


def refuse_overwrite(path: str | Path, overwrite: bool, option: str = "overwrite=true") -> None:
    """Raise unless the file ``path`` is free, or the user asked to overwrite it by ``option``."""
    if Path(path).is_dir():
        raise InputError("is a folder, expected a file to write; give another output", path)
    if Path(path).exists() and not overwrite:
        raise InputError(f"exists already; give another output, or {option} to replace it", path)


def refuse_input_as_output(outputs: Iterable[str | Path | None], inputs: Mapping[str, Any]) -> None:
    """Raise if a file that will be written is one that is read: writing it would destroy the source.

    Files are compared, not names, so links (symbolic and hard) and other spellings of a path are seen through.

    Args:
        outputs: files that will be written; None stands for none.
        inputs: files that are read, by the option that names them. A value may be a list or a mapping of values;
            what is not the name of an existing file is passed over.

    Raises:
        InputError: naming the output and the option.
    """
    written = [Path(path) for path in outputs if path is not None and _is_file(path)]
    for name, path in _files_in(inputs):
        for output in written:
            if output.samefile(path):
                raise InputError(
                    f"is also what {name} names ({path}); writing it would destroy it: give another output", output
                )


def _files_in(values: Any, name: str = "") -> Iterator[tuple[str, str | Path]]:
    """(option, path) of the existing files that values name."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _files_in(value, f"{name}.{key}" if name else str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _files_in(value, name)
    elif isinstance(values, str | Path) and _is_file(values):
        yield name, values


def _is_file(text: str | Path) -> bool:
    return os.path.isfile(text)  # noqa: PTH113  # Path.is_file raises where a text is too long to name a file


def refuse_one_file_twice(outputs: Mapping[str, str | Path | None]) -> None:
    """Raise if two outputs of a command are one file: the later would replace the earlier.

    Args:
        outputs: files by the option that names them; None stands for none.

    Raises:
        InputError: naming both options.
    """
    seen: dict[Path, str] = {}
    for name, path in outputs.items():
        if path is not None:
            before = seen.setdefault(Path(path).resolve(), name)
            if before != name:
                raise InputError(f"{before} and {name} are this one file; give each its own", path)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back (lists for tuples, texts for paths), to be compared with those in a file."""
    return json.loads(json.dumps(values, default=str))


def differences(mine: Mapping[str, Any], its: Mapping[str, Any], of: str = "") -> list[str]:
    """What differs in settings; of a mapping within a mapping each key is named: another version of torch."""
    found = []
    for name in sorted({*mine, *its}):
        one, two = mine.get(name), its.get(name)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            found += differences(one, two, f"{name} of ")
        elif one != two:
            found.append(f"another {of}{name} ({_short(one)}, not {_short(two)})")
    return found


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "..."


Record = dict[str, Any]

_SECONDS = ("offset", "duration")


def parse_line(line: str, path: str | Path, number: int, required: Iterable[str] = ()) -> Record:
    """Parse one manifest line and check that it is an object with the required keys.

    A number of seconds that is written as a string (``"offset": "1.5"``) becomes a number here, once for all readers.
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not JSON ({error.msg} at column {error.colno}): {line.strip()[:60]!r}", path, number
        ) from error
    if not isinstance(record, dict):
        raise InputError(f"expected a JSON object, found {type(record).__name__}", path, number)
    missing = [key for key in required if key not in record]
    if missing:
        raise InputError(f"no key {', '.join(map(repr, missing))}; it has {', '.join(record)}", path, number)
    if "\\ud" in line.lower():
        _check_unicode(record, path, number)
    if (audio := record.get("audio_filepath")) is not None and not (isinstance(audio, str) and audio):
        raise InputError(f"audio_filepath is {audio!r}, expected a path", path, number)
    for key in _SECONDS:
        if isinstance(record.get(key), str):
            record[key] = _number(record[key])
    return record


def _check_unicode(record: Record, path: str | Path, number: int) -> None:
    """Raise if a string has one half of a surrogate pair, which no file can hold: ``\\ud800`` alone."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise InputError(
            f"half a character, \\u{ord(half):x}: one of two surrogates is missing", path, number
        ) from error


def _number(text: str) -> float | str:
    """The finite number in a string, or the string itself, which the reader of that key will refuse by name."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


_ENCODER = json.JSONEncoder(ensure_ascii=False)
"""``json.dumps`` would make one for each line."""


def dump_line(record: Record) -> str:
    """One manifest line, newline included."""
    return _ENCODER.encode(record) + "\n"

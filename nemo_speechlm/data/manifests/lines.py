"""Manifests: JSON lines, read with the file and line of whatever is wrong in them.

Nothing here needs torch or NeMo, so the data tools start at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, atomic_write, dump_line, iter_lines, parse_line
from nemo_speechlm.storage import is_url


def read_manifest(path: str | Path, required: Iterable[str] = ()) -> Iterator[tuple[int, Record]]:
    """Yield (line number, record) of a JSON-lines manifest.

    Raises:
        InputError: at the first line that is not a JSON object with the required keys; or if there are no lines.
    """
    required = tuple(required)
    empty = True
    for number, line in iter_lines(path):
        empty = False
        yield number, parse_line(line, path, number, required)
    if empty:
        raise InputError("the manifest is empty", path)


def read_manifests(
    manifests: str | Path | Sequence, required: Iterable[str] = ()
) -> Iterator[tuple[str, int, Record]]:
    """Yield (manifest, line number, record) of a manifest or of several, see :func:`expand_shards`.

    Raises:
        InputError: at the first line that is not a JSON object with the required keys; or if there are no lines.
    """
    required = tuple(required)
    for path in expand_shards(manifests):
        for number, record in read_manifest(path, required):
            yield path, number, record


def check_manifests(manifests: str | Path | Sequence, required: Iterable[str] = (), skip_bad: bool = False) -> None:
    """Look at the first line of a manifest, or of the first of several: a wrong file is found out before the work.

    Args:
        manifests: as for :func:`read_manifests`.
        required: keys.
        skip_bad: lines that are wrong are passed over, where another one is right.

    Raises:
        InputError: as :func:`read_manifest`.
    """
    first: InputError | None = None
    path = expand_shards(manifests)[0]
    for number, line in iter_lines(path):
        try:
            parse_line(line, path, number, required)
            return
        except InputError as error:
            first = first or error
            if not skip_bad:
                break
    raise first or InputError("the manifest is empty", path)


def write_manifest(path: str | Path, records: Iterable[Record]) -> int:
    """Write records as JSON lines, under a temporary name until all are written; returns their number."""
    count = 0
    with atomic_write(path) as file:
        for record in records:
            file.write(dump_line(record))
            count += 1
    return count


def text_of(record: Record, key: str, path: str | Path, number: int) -> str:
    """The string that a record has under a key.

    Raises:
        InputError: if it has none, or something else.
    """
    if not isinstance(record.get(key), str):
        found = f"is {record[key]!r}" if key in record else "is missing"
        raise InputError(f"{key!r} {found}, expected a string", path, number)
    return record[key]


def read_texts(
    manifests: str | Path | Sequence, key: str, skip_bad: bool = False
) -> Iterator[tuple[str, int, Record, str]]:
    """Yield (manifest, line number, record, text) of a manifest or of several.

    Args:
        manifests: see :func:`expand_shards`.
        key: the text's.
        skip_bad: leave out lines that have no text, or are no records: training will tell of them.

    Raises:
        InputError: at the first such line, unless they are left out.
    """
    for path in expand_shards(manifests):
        for number, line in iter_lines(path):
            try:
                record = parse_line(line, path, number, (key,))
                text = text_of(record, key, path, number)
            except InputError:
                if not skip_bad:
                    raise
                continue
            yield path, number, record, text


def audio_path(record: Record, manifest: str | Path) -> Path:
    """The record's audio file; a relative path is relative to the manifest, as in NeMo."""
    path = record["audio_filepath"]
    if str(path).startswith("~"):
        path = Path(path).expanduser()
    if is_url(manifest) and not Path(path).is_absolute():
        raise InputError(f"{path} lies beside a manifest at an address, where only audio in tars is read", manifest)
    return Path(manifest).parent / path  # which is the path itself where that is absolute


def is_transcribed(record: Record) -> bool:
    """Whether a record has a transcript; in many manifests an empty text means "unknown"."""
    text = record.get("text")
    return text is not None and (not isinstance(text, str) or bool(text.strip()))

"""Where the audio of a manifest line is: a file, or a file in a tar."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.data.manifests.lines import audio_path, text_of
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, iter_lines, parse_line
from nemo_speechlm.storage import exists, is_url, join, parent

SPAN = "tar_span"
"""The key of a line that says where its audio is in the tar: the first byte of its header, and the end of its content.
Readers get there without reading the headers of all others."""

TAR = "tar_filepath"
"""The key of a line that names its tar; a relative path is relative to the manifest."""

_SUB = re.compile(r"-sub\d+(?=(\.\w+)?$)")
"""What NeMo puts into the names of utterances that are parts of one file in a tar."""


def audio_source(record: Record, manifest: str | Path, number: int) -> Path | TarAudio:
    """The audio file of a record.

    It is in a tar if the record names one (``tar_filepath``), or if it has a ``shard_id`` and a tar of this number,
    ``audio_<shard_id>.tar``, lies beside the manifest or one folder above, as NeMo's scripts and ours leave them.

    Args:
        record: line ``number`` of ``manifest``.
        manifest: for relative paths, and for messages.
        number: its line number.

    Raises:
        InputError: if the record names no file, or says something impossible of a tar.
    """
    text_of(record, "audio_filepath", manifest, number)
    tar = tar_of(record, manifest)
    return audio_path(record, manifest) if tar is None else in_tar(record, tar, manifest, number)


def naming(source: Path | TarAudio) -> Record:
    """What a record says of its audio so that it is found from everywhere."""
    if isinstance(source, Path):
        return {"audio_filepath": str(source.absolute())}
    return {"audio_filepath": source.name, TAR: source.absolute().path}


def moved_record(record: Record, manifest: str | Path, output: str | Path) -> Record:
    """A record of a manifest as it stands in another: relative paths are relative to their manifest.

    A record without audio stays as it is.
    """
    if record.get("audio_filepath") is None:
        return record
    path = Path(record["audio_filepath"]).expanduser()
    if path.is_absolute() or Path(manifest).parent.resolve() == Path(output).parent.resolve():
        return record
    return record | naming(audio_source(record, manifest, 0).resolve())


def in_tar(record: Record, tar: str, manifest: str | Path, number: int) -> TarAudio:
    """The audio of a record, in a tar that is known.

    Raises:
        InputError: if the record says something impossible of its place.
    """
    return TarAudio(tar, _SUB.sub("", record["audio_filepath"]), _span(record.get(SPAN), manifest, number))


def tar_of(record: Record, manifest: str | Path) -> str | None:
    """The tar that a record's audio is in, see :func:`audio_source`; None if it is in none."""
    folder = parent(manifest)
    if isinstance(record.get(TAR), str):
        return record[TAR] if is_url(record[TAR]) else join(folder, record[TAR])
    shard = record.get("shard_id")
    if not isinstance(shard, int) or Path(str(record.get("audio_filepath"))).is_absolute():
        return None
    name = f"audio_{shard}.tar"
    if is_url(folder):
        place = _tars_at(folder, name)
        return None if place is None else join(place, name)
    return next((str(path) for path in (Path(folder, name), Path(folder).parent / name) if path.is_file()), None)


_PLACES: dict[str, str] = {}


def _tars_at(folder: str, name: str) -> str | None:
    """Where the tars of manifests in a folder at an address are; it is asked once for all of them."""
    if folder not in _PLACES:
        for place in (folder, parent(folder)):
            if exists(join(place, name)):
                _PLACES[folder] = place
                break
    return _PLACES.get(folder)


def first_tars(manifests: Sequence[str | Path]) -> Iterator[str]:
    """The tar of each manifest's first line, where it says that its audio is in one; lines are not checked here."""
    for manifest in manifests:
        for number, line in iter_lines(manifest):
            tar = tar_of(parse_line(line, manifest, number), manifest)
            if tar is not None:
                yield tar
            break


def _span(value: Any, manifest: str | Path, number: int) -> tuple[int, int] | None:
    if value is None:
        return None
    if not (isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)):
        raise InputError(f"{SPAN} is {value!r}, expected two numbers of bytes", manifest, number)
    begin, end = value
    if not 0 <= begin <= end - 512:
        raise InputError(f"{SPAN} is {value!r}, expected a begin and an end behind it", manifest, number)
    return begin, end

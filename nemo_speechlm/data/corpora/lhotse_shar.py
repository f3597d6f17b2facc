"""Lhotse Shar: cuts, and their audio in tars in the same order, which is left where it is."""

import re
import tarfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from nemo_speechlm.data.audio.sources import SPAN, TAR
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, iter_lines, parse_line

_FILE = re.compile(r"(\w+)((?:\.\d+)?)\.(jsonl|tar)(?:\.gz)?")
"""The name of a file of a Shar: field, number, kind."""


def jsonl_items(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield line number and cut or recording of a file of JSON lines that Lhotse has written.

    Raises:
        InputError: naming file and line, at what is neither.
    """
    from lhotse.serialization import deserialize_item

    for number, line in iter_lines(path):
        record = parse_line(line, path, number)
        if {"recording_id", "start"} <= record.keys() and "recording" not in record:
            raise InputError("a supervision, expected a cut; `lhotse cut simple` makes cuts of it", path, number)
        try:
            item = deserialize_item(record)
        except Exception as error:  # a key that is not there, a wrong type, ...
            raise InputError(f"no cut of Lhotse's ({type(error).__name__}: {error})", path, number) from error
        yield number, item


def shar_cuts(folder: Path) -> Iterator[tuple[Path, int, Any, Record | None]]:
    """Yield file, line number and cut of all lines of a Shar, and what a manifest's line says of its audio.

    That is None where the cuts themselves say it, in a Shar without ``recording.*``.

    Args:
        folder: with ``cuts.000000.jsonl.gz``, ``recording.000000.tar`` and so on.

    Raises:
        InputError: if files of it are missing, or cuts and recordings are not the same.
    """
    fields = _fields(folder)
    if "cuts" not in fields:
        raise InputError("a folder without cuts.000000.jsonl.gz; expected a manifest of cuts, or Lhotse Shar", folder)
    cuts, audio = fields["cuts"], fields.get("recording")
    if audio is not None and cuts.keys() != audio.keys():
        number = min(cuts.keys() ^ audio.keys())
        there, missing = ("cuts", "recording") if number in cuts else ("recording", "cuts")
        raise InputError(f"it has {there}{number}.*, but no {missing}{number}.*", folder)
    for number in sorted(cuts):
        if audio is None:
            yield from ((cuts[number], line, cut, None) for line, cut in jsonl_items(cuts[number]))
        else:
            yield from _shard(cuts[number], audio[number])


def unread_fields(folder: Path) -> list[str]:
    """What to say of data beside the audio that a manifest does not name."""
    others = sorted(_fields(folder).keys() - {"cuts", "recording"})
    return [f"{folder}: not read: {', '.join(others)}"] if others else []


def _fields(folder: Path) -> dict[str, dict[str, Path]]:
    """The files of each field, by number."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _FILE.fullmatch(path.name):
            found.setdefault(match[1], {})[match[2]] = path
    return found


def _shard(cuts: Path, audio: Path) -> Iterator[tuple[Path, int, Any, Record]]:
    for item, recording in zip_longest(jsonl_items(cuts), _recordings(audio)):
        if item is None:
            raise InputError(f"ends before {audio}, which has {recording[0]!r}, too", cuts)
        number, cut = item
        if recording is None:
            raise InputError(f"ends before {cuts}, which has {cut.id!r}, too", audio)
        name, where = recording
        if name != cut.id:
            raise InputError(f"has {cut.id!r} where {audio} has {name!r}; were both written together?", cuts, number)
        if where is None:
            raise InputError(f"cut {cut.id!r} has no recording", cuts, number)
        yield cuts, number, cut, where


def _recordings(path: Path) -> Iterator[tuple[str, Record | None]]:
    """Id of the cut, and what a line says of its audio, if it has any, of each pair in a tar: audio and what it is."""
    if not path.name.endswith(".tar"):
        raise InputError("expected a tar that is not compressed, whose files can be read one by one", path)
    file = str(path.absolute())
    try:
        with tarfile.open(path, "r:") as tar:
            for place, info in enumerate(tar):
                if place % 2:
                    continue
                name, _, suffix = info.name.rpartition(".")
                record: Record = {"audio_filepath": info.name, TAR: file}
                begin = info.offset_data - tarfile.BLOCKSIZE
                if begin == info.offset:  # a long name has more in front, and is found by its name
                    record[SPAN] = [begin, info.offset_data + info.size]
                yield name, None if suffix == "nodata" else record
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"not a tar file that can be read: {error}", path) from error

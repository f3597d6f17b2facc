"""Manifests: JSON lines, read with the file and line of whatever is wrong in them.

Nothing here needs torch or NeMo, so the data tools start at once.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write, iter_lines
from nemo_speechlm.tokenizers.units import UnitInventory, UnitSequence

Record = dict[str, Any]

_SECONDS = ("offset", "duration")
FRAME_TOLERANCE = 2
"""Frames by which the durations of an utterance's units may differ from its audio."""


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
    for key in _SECONDS:
        if isinstance(record.get(key), str):
            record[key] = _number(record[key])
    return record


def _number(text: str) -> float | str:
    """The finite number that a string holds, or the string itself: who needs a number complains of it by name."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


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


def write_manifest(path: str | Path, records: Iterable[Record]) -> int:
    """Write records as JSON lines, under a temporary name until all are written; returns their number."""
    count = 0
    with atomic_write(path) as file:
        for record in records:
            file.write(dump_line(record))
            count += 1
    return count


def dump_line(record: Record) -> str:
    """One manifest line, newline included."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def audio_path(record: Record, manifest: str | Path) -> Path:
    """The record's audio file; a relative path is relative to the manifest, as in NeMo."""
    path = Path(record["audio_filepath"])
    if path.is_absolute():
        return path
    path = path.expanduser()
    return path if path.is_absolute() else Path(manifest).parent / path


def unit_ids(record: Record, inventory: UnitInventory, path: str | Path, number: int) -> list[int]:
    """The record's ``units`` (symbols or ids, a list or a string of them) as ids of the inventory.

    Raises:
        InputError: on an unknown unit, or none at all.
    """
    ids = inventory.encode(_as_symbols(record["units"], path, number), path, number)
    if not ids:
        raise InputError("units are empty", path, number)
    return ids


def unit_sequence(record: Record, inventory: UnitInventory, path: str | Path, number: int) -> UnitSequence:
    """The record's ``units`` with ``unit_durations``, checked against the inventory and the record's ``duration``.

    Raises:
        InputError: on an unknown unit, durations that do not fit the units, or a sum of durations that is more than
            ``FRAME_TOLERANCE`` frames off ``duration`` (the usual sign of another frame rate).
    """
    ids = unit_ids(record, inventory, path, number)
    durations = record.get("unit_durations")
    if durations is None:
        raise InputError("units without unit_durations", path, number)
    if len(durations) != len(ids):
        raise InputError(f"{len(ids)} units but {len(durations)} unit_durations", path, number)
    if set(map(type, durations)) - {int} or min(durations, default=1) < 1:
        raise InputError("unit_durations must be whole frames of at least 1", path, number)
    sequence = UnitSequence(ids, durations)
    if "duration" in record:
        seconds = record["duration"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise InputError(f"duration is {seconds!r}, expected seconds", path, number)
        expected = seconds * inventory.frame_rate
        if abs(sequence.num_frames - expected) > FRAME_TOLERANCE:
            raise InputError(
                f"units last {sequence.num_frames} frames, {record['duration']} s of audio are {expected:.0f} frames "
                f"at {inventory.frame_rate:g} per second; were they made at another frame rate?",
                path,
                number,
            )
    return sequence


def _as_symbols(units: Any, path: str | Path, number: int) -> list[str | int]:
    if isinstance(units, str):
        return list(units.split())
    if isinstance(units, list):
        return units
    raise InputError(f"units must be a list or a string, found {type(units).__name__}", path, number)

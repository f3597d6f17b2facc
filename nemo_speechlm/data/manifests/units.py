"""The units of a manifest line: read, checked against the inventory and against the audio's length."""

from pathlib import Path
from typing import Any

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.sequence import UnitSequence

FRAME_TOLERANCE = 2
"""Frames by which the durations of an utterance's units may differ from its audio."""


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
    if not isinstance(durations, list):
        raise InputError(f"unit_durations must be a list, found {type(durations).__name__}", path, number)
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

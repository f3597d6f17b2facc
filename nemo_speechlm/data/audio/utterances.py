"""The audio of one manifest line, and whether it lasts as long as the line says."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemo_speechlm.data.audio.files import Channel, audio_info, read_audio
from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record

DURATION_TOLERANCE = 0.05
"""Seconds by which a manifest's ``duration`` may be off the length of the audio."""

HEADER_TOLERANCE = 0.25
"""The same where the length is what the file's header says: encoders pad and round it."""


def read_utterance(
    record: Record, manifest: str | Path, number: int, sample_rate: int = 16000, channel: Channel = "mix"
) -> np.ndarray:
    """Read the audio of a manifest's record, from its ``offset`` where it has one.

    Args:
        record: line ``number`` of ``manifest``.
        manifest: for relative paths, and for messages.
        number: its line number.
        sample_rate: that of the result, in Hz.
        channel: which one, counted from 0, or ``"mix"``.

    Returns:
        Samples between -1 and 1, shape (T,), float32.

    Raises:
        InputError: naming the manifest and line, if the audio cannot be read, or is shorter than ``duration``, or,
            where there is no ``offset``, longer (each by more than ``DURATION_TOLERANCE``).
    """
    path = audio_source(record, manifest, number)
    offset, duration = seconds_of(record, "offset", manifest, number), seconds_of(record, "duration", manifest, number)
    try:
        samples = read_audio(path, sample_rate, offset or 0.0, None if offset is None else duration, channel)
    except InputError as error:
        raise InputError(str(error), manifest, number) from error
    check_duration(duration, len(samples) / sample_rate, path, manifest, number)
    return samples


class AudioPart(NamedTuple):
    """The audio of an utterance.

    Attributes:
        path: the file, or where it is in a tar.
        offset: seconds into it.
        duration: seconds.
    """

    path: Path | TarAudio
    offset: float
    duration: float


def audio_part(record: Record, manifest: str | Path, number: int, decode: bool = False) -> AudioPart:
    """Which part of which file a record means, once it is known that the file has that part.

    Args:
        record: line ``number`` of ``manifest``.
        manifest: for relative paths, and for messages.
        number: its line number.
        decode: read all samples of the file; else its header is believed.

    Raises:
        InputError: naming the manifest and line, if the record names no file, it cannot be read, is shorter, or,
            where there is no ``offset``, longer than ``duration`` (each by more than ``HEADER_TOLERANCE``).
    """
    path = audio_source(record, manifest, number)
    try:
        available = audio_info(path, decode=decode).duration
    except InputError as error:
        raise InputError(str(error), manifest, number) from None
    if record.get("offset") is None:
        wanted = seconds_of(record, "duration", manifest, number)
        check_duration(wanted, available, path, manifest, number, HEADER_TOLERANCE)
    return AudioPart(path, *part_of_file(record, path, available, manifest, number))


def check_duration(
    duration: float | None,
    found: float,
    path: Path | TarAudio,
    manifest: str | Path,
    number: int,
    tolerance: float = DURATION_TOLERANCE,
) -> None:
    """Raise unless a record's ``duration``, if it has one, is that of its audio (both in seconds)."""
    if duration is not None and abs(duration - found) > tolerance:
        raise InputError(
            f"duration is {duration:g} s, but the audio of {path} lasts {found:.3f} s; a part of a file needs an "
            "offset; prepare_data.py corpus=manifest fix_duration=true corrects durations",
            manifest,
            number,
        )


def part_of_file(
    record: Record, path: Path | TarAudio, available: float, manifest: str | Path, number: int
) -> tuple[float, float]:
    """Which part of its audio file a record means.

    Args:
        record: line ``number`` of ``manifest``; without an ``offset`` it means the whole file.
        path: the file, for messages.
        available: seconds that the file lasts.
        manifest: for messages.
        number: its line number.

    Returns:
        offset and duration in seconds.

    Raises:
        InputError: if the file does not have that part.
    """
    offset, wanted = (seconds_of(record, key, manifest, number) for key in ("offset", "duration"))
    if offset is None:
        return 0.0, available
    duration = available - offset if wanted is None else wanted
    if duration <= 0 or offset + duration > available + 0.1:
        raise InputError(
            f"{path} lasts {available:.2f} s; {duration:.2f} s from {offset:.2f} s on are asked for", manifest, number
        )
    return offset, min(duration, available - offset)


def seconds_of(record: Record, key: str, manifest: str | Path, number: int) -> float | None:
    """A record's ``offset`` or ``duration``, or None where it has none.

    Raises:
        InputError: if it is not a number of seconds.
    """
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InputError(f"{key} is {value!r}, expected seconds", manifest, number)
    return float(value)

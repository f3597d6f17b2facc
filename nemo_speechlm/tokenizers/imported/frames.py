"""Alignment times as whole frames of units."""

from collections.abc import Sequence

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.tokenizers.imported.files import Interval
from nemo_speechlm.units.phones import FRAME_RATE, POSITIONS, SILENCE


def find_tier(tiers: dict[str, list[Interval]], wanted: str) -> list[Interval] | None:
    """The tier with this name, or the only one called ``speaker - name``."""
    named = [name for name in tiers if name == wanted or name.endswith(f" - {wanted}")]
    return tiers[named[0]] if len(named) == 1 else None


def position_in_word(phones: list[Interval], at: int, words: list[Interval]) -> str:
    """B, E, I or S: where in its word a phone stands."""
    middle = (phones[at].start + phones[at].end) / 2
    word = next((word for word in words if word.start <= middle < word.end and word.label), None)
    if word is None:
        raise InputError(f"{phones[at].label!r} at {phones[at].start:.3f} s is in no word")

    def inside(other: int) -> bool:
        return 0 <= other < len(phones) and word.start <= (phones[other].start + phones[other].end) / 2 < word.end

    begins, ends = not inside(at - 1), not inside(at + 1)
    return POSITIONS[3] if begins and ends else POSITIONS[0] if begins else POSITIONS[1] if ends else POSITIONS[2]


def whole_frames(ends: Sequence[float], frames: int) -> list[int]:
    """Durations in frames of segments that end at these seconds and fill ``frames``; at least 1 each.

    >>> whole_frames([0.104, 0.106, 0.3], 30)
    [10, 1, 19]

    Raises:
        SkipItem: if there are more segments than frames.
    """
    if len(ends) > frames:
        raise SkipItem("more phones than frames of 10 ms")
    bounds = [round(end * FRAME_RATE) for end in ends]
    bounds[-1] = frames
    for position in range(len(bounds)):
        bounds[position] = max(bounds[position], bounds[position - 1] + 1 if position else 1)
    bounds[-1] = frames
    for position in range(len(bounds) - 2, -1, -1):
        bounds[position] = min(bounds[position], bounds[position + 1] - 1)
    return [end - start for start, end in zip([0, *bounds[:-1]], bounds, strict=True)]


def merged_silences(units: list[str], durations: list[int]) -> tuple[list[str], list[int]]:
    """Merge silences that follow each other."""
    merged: list[tuple[str, int]] = []
    for unit, duration in zip(units, durations, strict=True):
        if merged and unit == SILENCE == merged[-1][0]:
            merged[-1] = (unit, merged[-1][1] + duration)
        else:
            merged.append((unit, duration))
    return [unit for unit, _ in merged], [duration for _, duration in merged]

"""Utterances with their phones and their hidden units: what a text-to-unit model learns from.

Axis legend: B utterances, P phones, T frames of the hidden units.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.audio.utterances import seconds_of
from nemo_speechlm.data.manifests.lines import read_manifest, read_manifests
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.manifests.units import FRAME_TOLERANCE, unit_sequence
from nemo_speechlm.data.pretraining.batch import PAD_UNIT
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.sequence import UnitSequence

PHONES, PHONE_DURATIONS = "phones", "phone_durations"
"""Where a manifest that has both has its phones; ``units`` and ``unit_durations`` are then the hidden units."""


class PairedBatch(NamedTuple):
    """Phones, and the hidden units spoken with them.

    Attributes:
        phones: (B, P) int64, 0 where padded.
        phone_lengths: (B,) int64.
        durations: (B, P) int64, frames of the hidden units in each phone, 0 where padded.
        units: (B, T) int64, ``PAD_UNIT`` where padded.
        speakers: (B,) int64, or None where the model has none.
        ids: manifest and line of each utterance; empty where they are not known.
    """

    phones: Tensor
    phone_lengths: Tensor
    durations: Tensor
    units: Tensor
    speakers: Tensor | None
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Filters:
    """Which utterances are used.

    Attributes:
        min_frames: of hidden units.
        max_frames: of hidden units.
    """

    min_frames: int = 1
    max_frames: int = 2000


class PairedUtterance(NamedTuple):
    """One example: int32 arrays, the number of its speaker, and its manifest and line."""

    phones: np.ndarray
    durations: np.ndarray
    units: np.ndarray
    speaker: int
    manifest: str
    line: int


class PairedUnits(Dataset):
    """All utterances of manifests with hidden units, in memory (some 600 bytes for each second of speech).

    Phones and hidden units come from one manifest (``phones``, ``phone_durations``; ``units``, ``unit_durations``), or
    from two manifests of the same utterances, joined by their audio file and its ``offset``: those that the second
    lacks (they could not be aligned) are left out and counted.

    Args:
        manifests: with hidden units.
        phone_manifests: with phones as ``units``; None where the first have both.
        inventory: the hidden units.
        phones: the phones.
        speakers: names; a record's ``speaker`` must be one of them. Empty: speakers do not matter.
        filters: which utterances are used.

    Raises:
        InputError: at a line without what is needed; where phones and units of an utterance do not last equally long;
            if nothing is left.
    """

    def __init__(
        self,
        manifests: Sequence[str | Path],
        phone_manifests: Sequence[str | Path] | None,
        inventory: UnitInventory,
        phones: UnitInventory,
        speakers: Sequence[str] = (),
        filters: Filters = Filters(),
    ):
        self.left_out: Counter[str] = Counter()
        self._speakers = {name: number for number, name in enumerate(speakers)}
        aligned = None if phone_manifests is None else _read_phones(phone_manifests, phones)
        self._items: list[PairedUtterance] = []
        for manifest in expand_shards(list(manifests)):
            required = ["units", "unit_durations", *([PHONES, PHONE_DURATIONS] if aligned is None else [])]
            name = str(manifest)
            for number, record in read_manifest(manifest, required):
                units = unit_sequence(record, inventory, manifest, number)
                spoken = _own_phones(record, phones, manifest, number) if aligned is None else None
                if aligned is not None:
                    spoken = aligned.get(_key(record, manifest, number))
                if spoken is None:
                    self.left_out["no phones in the other manifest"] += 1
                elif not filters.min_frames <= units.num_frames <= filters.max_frames:
                    self.left_out["too short" if units.num_frames < filters.min_frames else "too long"] += 1
                else:
                    durations = frames_of_phones(
                        spoken.durations, phones.frame_rate, units.num_frames, inventory.frame_rate, manifest, number
                    )
                    speaker = self._speaker(record, manifest, number)
                    ids, lengths = np.asarray(spoken.ids, np.int32), np.asarray(durations, np.int32)
                    self._items.append(
                        PairedUtterance(ids, lengths, units.expand().astype(np.int32), speaker, name, number)
                    )
        if not self._items:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
            raise InputError(f"no utterance is left: {reasons}", ", ".join(map(str, manifests)))

    def _speaker(self, record: Record, path: str | Path, number: int) -> int:
        if not self._speakers:
            return 0
        found = self._speakers.get(str(record.get("speaker")))
        if found is None:
            raise InputError(
                f"speaker is {record.get('speaker')!r}, expected one of the model's {len(self._speakers)} speakers",
                path,
                number,
            )
        return found

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> PairedUtterance:
        return self._items[index]

    def frames(self) -> np.ndarray:
        """Frames of each utterance, (N,)."""
        return np.array([len(item.units) for item in self._items])

    def collate(self, items: Sequence[PairedUtterance]) -> PairedBatch:
        """Pad utterances to a batch."""
        phones = _padded([item.phones for item in items], 0)
        durations = _padded([item.durations for item in items], 0)
        units = _padded([item.units for item in items], PAD_UNIT)
        lengths = torch.tensor([len(item.phones) for item in items])
        speakers = torch.tensor([item.speaker for item in items]) if self._speakers else None
        ids = tuple(f"{item.manifest}:{item.line}" for item in items)
        return PairedBatch(phones, lengths, durations, units, speakers, ids)


def frames_of_phones(
    durations: Sequence[int],
    frame_rate: float,
    num_frames: int,
    unit_rate: float,
    path: str | Path | None = None,
    line: int | None = None,
) -> list[int]:
    """Frames of the hidden units in each phone: its boundaries, rounded to those of the frames.

    A phone that is shorter than a frame may get none. The last one ends where the units end, which may be some frames
    earlier or later than its own end: the teacher of hidden units drops what does not fill its last window.

    Args:
        durations: frames of each phone.
        frame_rate: in which they are counted, per second.
        num_frames: of the hidden units.
        unit_rate: frames of the hidden units per second.
        path: where they came from, for messages.
        line: its line.

    Raises:
        InputError: if the two differ by more than the tolerance of manifests on either side.

    >>> frames_of_phones([10, 5, 6, 9], 100, 15, 50)
    [5, 3, 3, 4]
    """
    ends = np.cumsum(durations) / frame_rate
    tolerance = FRAME_TOLERANCE / frame_rate + FRAME_TOLERANCE / unit_rate
    if abs(ends[-1] - num_frames / unit_rate) > tolerance + 1e-6:
        raise InputError(
            f"its phones last {ends[-1]:.2f} s, its units {num_frames / unit_rate:.2f} s; are they of the same "
            "audio, and the frame rates of both inventories right?",
            path,
            line,
        )
    # Half a frame is rounded up, everywhere: numpy would round to the even one.
    borders = np.minimum(np.floor(ends * unit_rate + 0.5 + 1e-9).astype(int), num_frames)
    borders[-1] = num_frames
    return np.diff(borders, prepend=0).tolist()


def speakers_of(manifests: Sequence[str | Path]) -> list[str]:
    """The names in ``speaker`` of manifests, sorted.

    Raises:
        InputError: at a line without one.
    """
    found: set[str] = set()
    for path, number, record in read_manifests(list(manifests), ["speaker"]):
        if record["speaker"] is None:
            raise InputError("speaker is null, expected a name", path, number)
        found.add(str(record["speaker"]))
    return sorted(found)


def _padded(rows: Sequence[np.ndarray], value: int) -> Tensor:
    out = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.int64)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = torch.from_numpy(row)
    return out


def _key(record: Record, path: str | Path, number: int) -> tuple[str, float]:
    return str(audio_source(record, path, number).resolve()), round(
        seconds_of(record, "offset", path, number) or 0.0, 3
    )


def _own_phones(record: Record, phones: UnitInventory, path: str | Path, number: int) -> UnitSequence:
    own: dict[str, Any] = {"units": record[PHONES], "unit_durations": record[PHONE_DURATIONS]}
    return unit_sequence(own | _timed(record), phones, path, number)


def _timed(record: Record) -> Record:
    return {key: record[key] for key in ("duration",) if key in record}


def _read_phones(paths: Sequence[str | Path], phones: UnitInventory) -> dict[tuple[str, float], UnitSequence]:
    return {key: sequence for path in expand_shards(list(paths)) for key, sequence in _sequences(path, phones)}


def _sequences(path: str | Path, phones: UnitInventory) -> Iterator[tuple[tuple[str, float], UnitSequence]]:
    for number, record in read_manifest(path, ["audio_filepath", "units", "unit_durations"]):
        yield _key(record, path, number), unit_sequence(record, phones, path, number)

"""How much hidden units say about phones: purities and normalized mutual information (HuBERT, arXiv 2106.07447, IV-E).

Axis legend: U units, P phones, T frames.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nemo_speechlm.data.audio.files import Channel
from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.audio.utterances import read_utterance, seconds_of
from nemo_speechlm.data.manifests.lines import read_manifests
from nemo_speechlm.data.manifests.shards import label
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.phones import phones_of_units
from nemo_speechlm.files import Record
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.sequence import UnitSequence


@dataclass(frozen=True)
class UnitQuality:
    """Units against the phones of the same frames.

    Attributes:
        frames: compared.
        used_units: units that occur.
        phones: that occur.
        phone_purity: share of frames whose phone is the commonest of their unit: accuracy, if each unit were a phone.
        cluster_purity: share of frames whose unit is the commonest of their phone.
        pnmi: mutual information of both, divided by the entropy of the phones: how much of the uncertainty about the
            phone the unit removes; None where only one phone occurs, about which nothing is uncertain.
    """

    frames: int
    used_units: int
    phones: int
    phone_purity: float
    cluster_purity: float
    pnmi: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, rounded."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        pnmi = "none with a single phone" if self.pnmi is None else f"{self.pnmi:.3f}"
        return (
            f"phone purity {self.phone_purity:.3f}, cluster purity {self.cluster_purity:.3f}, PNMI {pnmi} "
            f"({self.used_units} units, {self.phones} phones, {self.frames} frames)"
        )


def unit_quality(joint_UP: np.ndarray) -> UnitQuality:
    """Quality of units from how often each (row) meets each phone (column).

    Raises:
        InputError: if no frame was counted.

    >>> unit_quality(np.array([[3, 1], [0, 4]])).phone_purity
    0.875
    """
    joint = np.asarray(joint_UP, dtype=np.float64)
    total = joint.sum()
    if not total:
        raise InputError("no frame has both a unit and a phone")
    p_UP = joint / total
    p_U, p_P = p_UP.sum(1), p_UP.sum(0)
    seen = p_UP > 0
    information = (p_UP[seen] * np.log(p_UP[seen] / np.outer(p_U, p_P)[seen])).sum()
    entropy = -(p_P[p_P > 0] * np.log(p_P[p_P > 0])).sum()
    return UnitQuality(
        frames=int(total),
        used_units=int((p_U > 0).sum()),
        phones=int((p_P > 0).sum()),
        phone_purity=float(p_UP.max(1).sum()),
        cluster_purity=float(p_UP.max(0).sum()),
        pnmi=float(information / entropy) if entropy > 0 else None,
    )


class JointCounts:
    """Counts how often each unit meets each phone.

    Args:
        units: their number U.
        phones: the phones' inventory.
        merged: count what differs only in stress and position in the word as one phone.
    """

    def __init__(self, units: int, phones: UnitInventory, merged: bool = True):
        names = phones_of_units(phones) if merged else list(phones.symbols)
        self.phones = sorted(set(names))
        self._column = np.array([self.phones.index(name) for name in names])
        self.counts = np.zeros((units, len(self.phones)), dtype=np.int64)

    def add(self, units: np.ndarray, unit_rate: float, phones: np.ndarray, phone_rate: float) -> None:
        """Count the frames of an utterance.

        Args:
            units: (T,) ids, one per frame.
            unit_rate: frames per second.
            phones: (T',) ids; the one at the middle of a unit's frame is taken.
            phone_rate: frames per second.
        """
        middle = ((np.arange(len(units)) + 0.5) * (phone_rate / unit_rate)).astype(np.int64)
        inside = middle < len(phones)
        np.add.at(self.counts, (units[inside], self._column[phones[middle[inside]]]), 1)


def phones_of(
    manifests: str | Path | Sequence, inventory: UnitInventory
) -> Iterator[tuple[str, int, Record, np.ndarray]]:
    """Manifest, line number, record and phone ids, one per frame, of each line of manifests that were aligned."""
    for path, number, record in read_manifests(manifests, ["audio_filepath", "units", "unit_durations"]):
        yield path, number, record, unit_sequence(record, inventory, path, number).expand()


def compare_manifests(
    units: str | Path | Sequence,
    unit_inventory: UnitInventory,
    phones: str | Path | Sequence,
    phone_inventory: UnitInventory,
    merged: bool = True,
) -> tuple[UnitQuality, int]:
    """Quality of the units in a manifest, against the phones in another one of the same utterances.

    Returns:
        the quality, and how many utterances both have.

    Raises:
        InputError: if a line is wrong, or they have no utterance in common.
    """
    wanted = {
        _name(record, path, number): UnitSequence.from_frames(frames)
        for path, number, record, frames in phones_of(phones, phone_inventory)
    }
    joint = JointCounts(len(unit_inventory), phone_inventory, merged)
    common = 0
    for path, number, record in read_manifests(units, ["audio_filepath", "units", "unit_durations"]):
        aligned = wanted.get(_name(record, path, number))
        if aligned is not None:
            frames = unit_sequence(record, unit_inventory, path, number).expand()
            joint.add(frames, unit_inventory.frame_rate, aligned.expand(), phone_inventory.frame_rate)
            common += 1
    if not common:
        raise InputError(f"has no utterance (audio_filepath and offset) in common with {label(phones)}", label(units))
    return unit_quality(joint.counts), common


def quality_of_kmeans(
    kmeans: Any,
    teacher: Any,
    phones: str | Path | Sequence,
    inventory: UnitInventory,
    max_utterances: int | None = None,
    merged: bool = True,
    channel: Channel = "mix",
) -> UnitQuality:
    """Quality of centroids on a manifest with aligned phones.

    Args:
        kmeans: :class:`~nemo_speechlm.tokenizers.kmeans.centroids.KMeans`.
        teacher: what makes its features.
        phones: the manifest, or several.
        inventory: of its phones.
        max_utterances: of its beginning; None takes all.
        merged: see :class:`JointCounts`.
        channel: of audio with several; the one that the centroids were made of.
    """
    joint = JointCounts(len(kmeans.centroids), inventory, merged)
    lines = list(_first(phones_of(phones, inventory), max_utterances))
    for start in tqdm(range(0, len(lines), 32), desc="phones", unit="batch"):
        batch = lines[start : start + 32]
        rate = kmeans.source.sample_rate
        audio = [read_utterance(record, path, number, rate, channel) for path, number, record, _ in batch]
        for (*_, aligned), frames in zip(batch, teacher.features(audio), strict=True):
            joint.add(kmeans.assign(frames).cpu().numpy(), kmeans.source.frame_rate, aligned, inventory.frame_rate)
    return unit_quality(joint.counts)


def _first(items: Iterable, count: int | None) -> Iterable:
    return items if count is None else (item for item, _ in zip(items, range(count), strict=False))


def _name(record: Record, manifest: str | Path, number: int) -> tuple[str, float]:
    offset = seconds_of(record, "offset", manifest, number) or 0.0
    return str(audio_source(record, manifest, number).resolve()), round(offset, 3)

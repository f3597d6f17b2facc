"""Utterances of speech manifests as Lhotse cuts, with their units where the model wants units."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from lhotse import MonoCut

from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.data.pretraining.audio_reader import AudioReader, seconds
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.manifest_reader import Key
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record
from nemo_speechlm.units.inventory import UnitInventory


class SpeechReader(AudioReader):
    """Cuts of a speech manifest.

    With an inventory, their ``custom`` holds ``units`` and ``unit_durations`` of the whole utterance.

    Args:
        manifests: NeMo manifests, with ``units`` and ``unit_durations`` if there is an inventory.
        inventory: the units; None for speech without units.
        order: see :class:`Order`.
        truncate_duration: seconds to which longer utterances are cropped, after ``max_duration`` has left out its
            share. Crops begin and end between two unit frames, so that no label moves against its audio; without
            units, between two samples.
        truncate_offset_type: ``"random"``, ``"start"`` or ``"end"``.
        audio: arguments of :class:`AudioReader`.
    """

    type: ClassVar[str] = "speech_units"
    kind: ClassVar[int] = 1
    options: ClassVar[tuple[str, ...]] = (*AudioReader.options, "truncate_duration", "truncate_offset_type")
    facts: ClassVar[tuple[str, ...]] = (*AudioReader.facts, "inventory")

    def __init__(
        self,
        manifests: Sequence[str],
        inventory: UnitInventory | None = None,
        order: Order = Order(),  # noqa: B008 - immutable
        truncate_duration: float | None = None,
        truncate_offset_type: str = "random",
        **audio: Any,
    ):
        super().__init__(manifests, order, **audio)
        if truncate_offset_type not in ("random", "start", "end"):
            raise InputError(f"truncate_offset_type is {truncate_offset_type!r}, expected random, start or end")
        self.inventory = inventory
        self.required = (*AudioReader.required, *(() if inventory is None else ("units",)))  # type: ignore[misc]
        self.crop_rate = self.sample_rate if inventory is None else inventory.frame_rate
        self.crop = None if truncate_duration is None else int(truncate_duration * self.crop_rate + 1e-6)
        if self.crop is not None and self.crop < 1:
            raise InputError(f"truncate_duration is {truncate_duration} s, less than a frame")
        self.truncate_offset_type = truncate_offset_type
        self._survey()
        self._check_audio()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make it from an ``input_cfg`` item, in which the inventory is a file or what it holds."""
        return super().from_config(with_inventory(config))

    def _example(self, record: Record, file: IndexedManifest, number: int, key: Key | None) -> MonoCut | str:
        recorded = seconds(record, "duration", file, number)
        speed = self._speed(key, recorded if self.crop is None else 0.0)
        duration = recorded / speed
        custom: dict[str, Any] = {}
        length = int(duration * self.crop_rate)
        if self.inventory is not None:
            sequence = unit_sequence(record, self.inventory, file.path, number)
            custom = {
                "units": np.asarray(sequence.ids, dtype=np.int32),
                "unit_durations": stretched(np.asarray(sequence.durations, dtype=np.int32), speed),
            }
            length = int(custom["unit_durations"].sum())
        if reason := self._left_out(recorded):
            return reason
        start = 0.0
        if self.crop is not None and length > self.crop:
            start = self._crop_start(length - self.crop, key) / self.crop_rate
            duration = min(self.crop / self.crop_rate, duration - start)
        if duration > self.longest:
            return f"longer than the encoder has positions for ({self.longest:g} s; see truncate_duration)"
        return self._cut(record, file, number, (start, duration), custom, key, speed)

    def _crop_start(self, last: int, key: Key | None) -> int:
        if self.truncate_offset_type == "random" and key is not None:
            return int(np.random.default_rng(key).integers(last + 1))
        return 0 if self.truncate_offset_type == "start" else last


def stretched(durations: np.ndarray, speed: float) -> np.ndarray:
    """Durations (N,) in frames of units that are spoken ``speed`` times as fast.

    The borders of units are rounded to frames, so that no rounding adds up; a unit may be left without a frame.
    """
    if speed == 1.0:
        return durations
    borders = np.rint(np.cumsum(durations) / speed).astype(np.int32)
    return np.diff(borders, prepend=np.int32(0))


def with_inventory(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose ``inventory``, a file or what one holds, is read."""
    inventory = config.get("inventory")
    if isinstance(inventory, str):
        inventory = UnitInventory.load(inventory)
    elif isinstance(inventory, Mapping):
        inventory = UnitInventory.from_dict(dict(inventory))
    return {**config, "inventory": inventory}

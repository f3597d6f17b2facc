"""Utterances of speech manifests as Lhotse cuts, with their units."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from lhotse import AudioSource, MonoCut, Recording

from nemo_speechlm.data.manifests.line_index import LineIndex
from nemo_speechlm.data.manifests.lines import audio_path
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.data.pretraining.order import Key, Order, UnitReader
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record
from nemo_speechlm.units.inventory import UnitInventory

_AUDIO_CHECKED = 50


class SpeechUnitsReader(UnitReader):
    """Cuts of a speech manifest.

    Their ``custom`` holds ``units`` and ``unit_durations`` of the whole utterance, ``origin`` (seconds at which it
    starts in its file), and ``manifest`` and ``line`` for messages. The recording states the sample rate that the
    dataset resamples to: no audio file is opened before its batch is made.

    Args:
        manifests: NeMo manifests with ``units`` and ``unit_durations``.
        inventory: the units.
        order: see :class:`Order`.
        sample_rate: of the audio that the dataset makes.
        min_duration: seconds; shorter utterances are left out.
        max_duration: seconds; longer utterances are left out, cropped or not.
        truncate_duration: seconds to which longer utterances are cropped. Crops begin and end between two unit frames,
            so that no label moves against its audio.
        truncate_offset_type: ``"random"``, ``"start"`` or ``"end"``.
        longest: seconds that the model can encode; utterances that are longer, once cropped, are left out.
    """

    required: ClassVar[tuple[str, ...]] = ("audio_filepath", "duration", "units")
    kind: ClassVar[int] = 1

    def __init__(
        self,
        manifests: Sequence[str],
        inventory: UnitInventory,
        order: Order = Order(),  # noqa: B008 - immutable
        sample_rate: int = 16000,
        min_duration: float | None = None,
        max_duration: float | None = None,
        truncate_duration: float | None = None,
        truncate_offset_type: str = "random",
        longest: float | None = None,
    ):
        super().__init__(manifests, inventory, order)
        if truncate_offset_type not in ("random", "start", "end"):
            raise InputError(f"truncate_offset_type is {truncate_offset_type!r}, expected random, start or end")
        self.sample_rate = sample_rate
        self.min_duration = min_duration or 0.0
        self.max_duration = max_duration or float("inf")
        self.crop_frames = None if truncate_duration is None else int(truncate_duration * inventory.frame_rate + 1e-6)
        if self.crop_frames is not None and self.crop_frames < 1:
            raise InputError(f"truncate_duration is {truncate_duration} s, less than a frame")
        self.truncate_offset_type = truncate_offset_type
        self.longest = longest or float("inf")
        self._survey()
        self._check_audio()

    def _example(self, record: Record, file: LineIndex, number: int, key: Key | None) -> MonoCut | str:
        duration = _seconds(record, "duration", file, number)
        sequence = unit_sequence(record, self.inventory, file.path, number)
        if duration < self.min_duration:
            return f"shorter than min_duration ({self.min_duration:g} s)"
        if duration > self.max_duration:
            return f"longer than max_duration ({self.max_duration:g} s)"
        origin = _seconds(record, "offset", file, number) if record.get("offset") else 0.0
        start = 0.0
        if self.crop_frames is not None and sequence.num_frames > self.crop_frames:
            start = self._crop_start(sequence.num_frames - self.crop_frames, key) / self.inventory.frame_rate
            duration = min(self.crop_frames / self.inventory.frame_rate, duration - start)
        if duration > self.longest:
            return f"longer than the encoder has positions for ({self.longest:g} s; see truncate_duration)"
        path = str(audio_path(record, file.path))
        num_samples = round((origin + float(record["duration"])) * self.sample_rate)
        return MonoCut(
            id=f"{file.path}:{number}",
            start=origin + start,
            duration=duration,
            channel=0,
            recording=Recording(
                id=path,
                sources=[AudioSource("file", [0], path)],
                sampling_rate=self.sample_rate,
                num_samples=num_samples,
                duration=num_samples / self.sample_rate,
            ),
            custom={
                "units": np.asarray(sequence.ids, dtype=np.int32),
                "unit_durations": np.asarray(sequence.durations, dtype=np.int32),
                "origin": origin,
                "manifest": str(file.path),
                "line": number,
            },
        )

    def _crop_start(self, last: int, key: Key | None) -> int:
        if self.truncate_offset_type == "random" and key is not None:
            return int(np.random.default_rng(key).integers(last + 1))
        return 0 if self.truncate_offset_type == "start" else last

    def _check_audio(self) -> None:
        for row in np.unique(np.linspace(0, len(self) - 1, _AUDIO_CHECKED).astype(np.int64)):
            cut = self._read(int(row), None)
            if (
                not isinstance(cut, str)
                and not (path := audio_path({"audio_filepath": cut.recording.id}, "")).is_file()
            ):
                raise InputError(f"no such audio file: {path}", cut.custom["manifest"], cut.custom["line"])


def _seconds(record: Record, key: str, file: LineIndex, number: int) -> float:
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"{key} is {value!r}, expected seconds above 0", file.path, number)
    return float(value)

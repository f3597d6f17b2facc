"""Speech and text manifests with units as NeMo data types: ``speech_units`` and ``text_units``.

Importing this module registers both with NeMo's Lhotse data loading, where they stand in an ``input_cfg`` beside
NeMo's own types. They read lines in a fresh random order of the whole manifest in every pass, endlessly, and share the
lines of a pass among ranks and workers; with ``force_finite`` they read one pass, and in the file's order unless
``shuffle``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from lhotse import AudioSource, CutSet, MonoCut, Recording
from nemo.collections.common.data.lhotse.cutset import data_type_parser
from nemo.collections.common.data.lhotse.text_adapters import Formattable
from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.data.line_index import LineIndex
from nemo_speechlm.data.manifest import Record, audio_path, unit_ids, unit_sequence
from nemo_speechlm.data.unit_reader import Key, Order, UnitReader
from nemo_speechlm.errors import InputError
from nemo_speechlm.tokenizers.durations import DurationSampler
from nemo_speechlm.tokenizers.units import UnitInventory

_AUDIO_CHECKED = 50

_DRAWS = 4


@dataclass
class TextUnits(Formattable):
    """A sentence as units, as NeMo's and Lhotse's samplers see it.

    Attributes:
        id: where it came from.
        units: (N,) unit ids.
        durations: (N,) frames of the text's frame rate.
        targets: (U,) character ids.
    """

    id: str
    units: np.ndarray
    durations: np.ndarray
    targets: np.ndarray

    @cached_property
    def input_length(self) -> int:
        """Frames: what ``batch_tokens`` and the buckets count."""
        return int(self.durations.sum())

    @property
    def output_length(self) -> int:
        """Number of characters."""
        return len(self.targets)

    @property
    def total_length(self) -> int:
        """As :attr:`input_length`: characters take no memory worth counting."""
        return self.input_length

    def with_id(self, id_: str) -> "TextUnits":
        """The same sentence under another name."""
        return TextUnits(id_, self.units, self.durations, self.targets)


def is_special(label: str) -> bool:
    """Whether a label is a symbol like ``<unk>`` of a converted model, not a character."""
    return len(label) > 2 and label[0] == "<" and label[-1] == ">"


def ctc_frames(targets: Sequence[int] | np.ndarray) -> int:
    """The fewest frames with which CTC can spell ``targets``: a blank must part equal neighbours."""
    targets = np.asarray(targets)
    return len(targets) + int(np.count_nonzero(targets[1:] == targets[:-1]))


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


class TextUnitsReader(UnitReader):
    """Sentences of a text manifest as :class:`TextUnits`.

    Durations that the manifest does not give are drawn from the inventory's statistics, anew in each pass. A drawn
    sentence lasts as many frames as CTC needs to spell it, at least ``min_tokens`` and at most ``max_tokens`` and
    ``max_frames``. The filters go by expected durations, so they always leave out the same sentences.

    Args:
        manifests: text manifests with ``text``, ``units`` and, if they are not to be drawn, ``unit_durations``.
        inventory: the units, with duration statistics where the manifest has no durations.
        labels: the characters; a target is a character's position here.
        frame_rate: frames per second that text is expanded to.
        order: see :class:`Order`.
        min_tokens: sentences expected to last fewer frames are left out.
        max_tokens: sentences expected to last more frames are left out.
        unknown_characters: ``"error"``, or ``"drop"`` to spell sentences without the characters not in ``labels``.
        max_frames: frames that the model can encode; sentences expected to last longer are left out.
    """

    required: ClassVar[tuple[str, ...]] = ("text", "units")
    kind: ClassVar[int] = 2

    def __init__(
        self,
        manifests: Sequence[str],
        inventory: UnitInventory,
        labels: Sequence[str],
        frame_rate: float,
        order: Order = Order(),  # noqa: B008 - immutable
        min_tokens: float | None = None,
        max_tokens: float | None = None,
        unknown_characters: str = "error",
        max_frames: int | None = None,
    ):
        super().__init__(manifests, inventory, order)
        if unknown_characters not in ("error", "drop"):
            raise InputError(f"unknown_characters is {unknown_characters!r}, expected error or drop")
        self.frame_rate = frame_rate
        self.scale = frame_rate / inventory.frame_rate
        self.min_tokens = min_tokens or 0
        self.max_tokens = max_tokens or float("inf")
        self.max_frames = max_frames or float("inf")
        self.unknown_characters = unknown_characters
        self._characters = {character: position for position, character in enumerate(labels)}
        if len(self._characters) != len(labels) or not all(len(c) == 1 or is_special(c) for c in labels):
            raise InputError(f"labels must be single characters, each once; found {list(labels)}")
        self._sampler: DurationSampler | None = None
        self._expected = np.empty(0)
        self._survey()

    def _example(self, record: Record, file: LineIndex, number: int, key: Key | None) -> TextUnits | str:
        targets = self._targets(record["text"], file, number)
        if not len(targets):
            return "without a character"
        needed = ctc_frames(targets)
        if record.get("unit_durations") is None:
            if self._sampler is None:
                self._sampler = self._make_sampler()
            units = np.asarray(unit_ids(record, self.inventory, file.path, number), dtype=np.int32)
            num_frames = round(float(self._expected[units].sum()))
            durations = self._expected[units]
        else:
            sequence = unit_sequence(record, self.inventory, file.path, number)
            units = np.asarray(sequence.ids, dtype=np.int32)
            durations = rescale(sequence.durations, self.scale)
            num_frames = int(durations.sum())
        if num_frames < needed:
            return f"with fewer frames than their characters need (at {self.frame_rate:g} frames per second)"
        if num_frames < self.min_tokens:
            return f"shorter than min_tokens ({self.min_tokens:g} frames)"
        if num_frames > self.max_tokens:
            return f"longer than max_tokens ({self.max_tokens:g} frames)"
        if num_frames > self.max_frames:
            return f"longer than the encoder has positions for ({self.max_frames:g} frames)"
        if record.get("unit_durations") is None and key is not None:
            durations = self._draw(units, needed, np.random.default_rng(key))
        return TextUnits(f"{file.path}:{number}", units, durations, targets)

    def _targets(self, text: str, file: LineIndex, number: int) -> np.ndarray:
        ids = [self._characters.get(character, -1) for character in text]
        if -1 in ids:
            if self.unknown_characters == "error":
                raise InputError(
                    f"text has the character {text[ids.index(-1)]!r}, which is not among the {len(self._characters)} "
                    "labels; normalize the text, add it to the labels, or set "
                    "model.train_ds.text.unknown_characters=drop (of validation_ds for validation)",
                    file.path,
                    number,
                )
            ids = [i for i in ids if i >= 0]
        return np.asarray(ids, dtype=np.int32)

    def _make_sampler(self) -> DurationSampler:
        sampler = DurationSampler(self.inventory)  # raises if there are units without statistics
        means = np.array([self.inventory.durations[symbol].mean for symbol in self.inventory.symbols])
        self._expected = np.maximum(means * self.scale, 1.0)
        return sampler

    def _draw(self, units: np.ndarray, needed: int, rng: np.random.Generator) -> np.ndarray:
        """Durations of a sentence that the filters keep, within its bounds: drawn again, then made to fit."""
        assert self._sampler is not None
        fewest = max(needed, math.ceil(self.min_tokens))
        most = min(self.max_tokens, self.max_frames)
        for _ in range(_DRAWS):
            durations = np.asarray(self._sampler.draw(units, rng, self.scale))
            total = int(durations.sum())
            if fewest <= total <= most:
                return durations
        if total < fewest:
            np.add.at(durations, rng.integers(len(durations), size=fewest - total), 1)
            return durations
        return shorten(durations, int(most))


def shorten(durations: np.ndarray, most: int) -> np.ndarray:
    """Durations (N,) shortened in proportion to what each has beyond one frame, to ``most`` frames together.

    Args:
        durations: at least 1 each, together more than ``most``.
        most: frames, at least N.

    >>> shorten(np.array([1, 9, 3, 1]), 9).tolist()
    [1, 5, 2, 1]
    """
    room = most - len(durations)
    ends = np.cumsum(durations - 1)
    return 1 + np.diff((2 * room * ends + ends[-1]) // (2 * ends[-1]), prepend=0)  # borders, halves up


def rescale(durations: Sequence[int], scale: float) -> np.ndarray:
    """Durations at another frame rate, at least 1; borders are rounded, not durations, so the sum does not drift."""
    boundaries = np.floor(np.cumsum(durations) * scale + 0.5).astype(np.int64)  # halves up: evenly apart stays so
    return np.maximum(np.diff(boundaries, prepend=0), 1)


@data_type_parser("speech_units")
def read_speech_units(config: DictConfig) -> tuple[CutSet, bool]:
    """Parse an ``input_cfg`` item; its keys are the arguments of :class:`SpeechUnitsReader` and :class:`Order`."""
    keys = ("sample_rate", "min_duration", "max_duration", "truncate_duration", "truncate_offset_type", "longest")
    return CutSet(SpeechUnitsReader(**_shared(config), **_present(config, keys))), True


@data_type_parser("text_units")
def read_text_units(config: DictConfig) -> tuple[CutSet, bool]:
    """Parse an ``input_cfg`` item; its keys are the arguments of :class:`TextUnitsReader` and :class:`Order`."""
    keys = ("labels", "frame_rate", "min_tokens", "max_tokens", "unknown_characters", "max_frames")
    return CutSet(TextUnitsReader(**_shared(config), **_present(config, keys))), True


def _present(config: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    values = {key: config.get(key) for key in keys}
    return {
        key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        for key, value in values.items()
        if value is not None
    }


def _shared(config: DictConfig) -> dict[str, Any]:
    manifests = _present(config, ("manifest_filepath",))["manifest_filepath"]
    inventory = config["inventory"]
    if isinstance(inventory, str):
        units = UnitInventory.load(inventory)
    else:
        units = UnitInventory.from_dict(OmegaConf.to_object(inventory))
    order = _present(config, ("seed", "rank", "world_size", "shuffle"))
    return {
        "manifests": [manifests] if isinstance(manifests, str) else list(manifests),
        "inventory": units,
        "order": Order(finite=bool(config.get("force_finite")), **order),
    }

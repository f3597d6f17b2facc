"""Speech and text manifests with units as NeMo data types: ``speech_units`` and ``text_units``.

Importing this module registers both with NeMo's Lhotse data loading, where they stand in an ``input_cfg`` beside
NeMo's own types. They read lines in a fresh random order of the whole manifest in every pass, endlessly, and share the
lines of a pass among ranks and workers; with ``force_finite`` they read one pass, in the file's order unless ``shuffle``.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from typing import Any, NamedTuple

import numpy as np
from lhotse import AudioSource, CutSet, MonoCut, Recording
from nemo.collections.common.data.lhotse.cutset import data_type_parser
from nemo.collections.common.data.lhotse.text_adapters import Formattable
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import get_worker_info

from nemo_speechlm.data.line_index import LineIndex
from nemo_speechlm.data.manifest import Record, audio_path, parse_line, unit_ids, unit_sequence
from nemo_speechlm.errors import InputError
from nemo_speechlm.tokenizers.durations import DurationSampler
from nemo_speechlm.tokenizers.units import UnitInventory

SURVEYED = 50_000
"""Lines of a manifest that are checked, and counted by the filters, before training starts."""

_AUDIO_CHECKED = 50

_BARREN_PASSES = 1000
"""Passes over one share of the lines, all of them left out, that are taken for an endless loop."""


class Order(NamedTuple):
    """In which order, and by whom, a manifest is read.

    Attributes:
        seed: of the order, of crops and of drawn durations.
        rank: of this process among ``world_size``; with the data loader's workers they share each pass.
        world_size: number of processes.
        shuffle: a random order, another one in each pass.
        finite: end after one pass.
    """

    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    finite: bool = False


@dataclass
class TextUnits(Formattable):
    """A sentence as units, as NeMo's and Lhotse's samplers see it.

    Attributes:
        id: where it came from.
        units: (N,) unit ids.
        durations: (N,) frames of the text's frame rate, or None where they are to be drawn.
        targets: (U,) character ids.
        num_frames: frames that it lasts, or is expected to last.
        draw: seeds the draw of its durations.
    """

    id: str
    units: np.ndarray
    durations: np.ndarray | None
    targets: np.ndarray
    num_frames: int
    draw: tuple[int, ...]

    @property
    def input_length(self) -> int:
        """What ``batch_tokens``, ``max_tokens`` and the buckets count."""
        return self.num_frames

    @property
    def output_length(self) -> int:
        """Number of characters."""
        return len(self.targets)

    @property
    def total_length(self) -> int:
        """As :attr:`input_length`: characters take no memory worth counting."""
        return self.num_frames

    def with_id(self, id_: str) -> "TextUnits":
        """The same sentence under another name."""
        return TextUnits(id_, self.units, self.durations, self.targets, self.num_frames, self.draw)


def ctc_frames(targets: Sequence[int] | np.ndarray) -> int:
    """The fewest frames with which CTC can spell ``targets``: a blank must part equal neighbours."""
    targets = np.asarray(targets)
    return len(targets) + int(np.count_nonzero(targets[1:] == targets[:-1]))


class UnitReader(ABC):
    """Iterates over examples made of manifest lines.

    The manifests are indexed, and ``SURVEYED`` of their lines are checked, when it is made: a wrong inventory or frame
    rate is an error at the start and not in the middle. The number of lines left out, by reason, is logged.

    Attributes:
        start: batches delivered before training was resumed; another start is another order.
    """

    def __init__(self, manifests: Sequence[str], inventory: UnitInventory, order: Order):
        self.inventory = inventory
        self.order = order
        self.start = 0
        self._files = [LineIndex(path) for path in manifests]
        self._first = [0, *accumulate(map(len, self._files))]

    @abstractmethod
    def _example(self, record: Record, file: LineIndex, number: int, key: tuple[int, ...]) -> Any:
        """The example of a record, or the reason (a string) why it is left out; ``key`` seeds what is random in it."""

    def __len__(self) -> int:
        return self._first[-1]

    def __iter__(self) -> Iterator[Any]:
        barren = 0
        for turn, rows in self._passes():
            found = False
            for row in rows:
                example = self._read(int(row), turn)
                if not isinstance(example, str):
                    found = True
                    yield example
            barren = 0 if found else barren + 1
            if barren == _BARREN_PASSES:
                raise InputError("all lines are left out by the filters", self._files[0].path)

    def _passes(self) -> Iterator[tuple[int, np.ndarray | range]]:
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        share = self.order.rank * workers + (0 if worker is None else worker.id)
        shares = self.order.world_size * workers
        for turn in range(1) if self.order.finite else count():
            if not self.order.shuffle:
                yield turn, range(share, len(self), shares)
            elif len(self) >= shares or self.order.finite:
                yield turn, self._permutation(turn)[share::shares].copy()
            else:  # too few lines to share: all read all, each in its own order
                yield turn * shares + share, self._permutation(turn, share)

    def _permutation(self, *key: int) -> np.ndarray:
        rows = np.arange(len(self), dtype=np.uint32)
        np.random.default_rng((self.order.seed, self.start, *key)).shuffle(rows)
        return rows

    def _read(self, row: int, turn: int) -> Any:
        position = int(np.searchsorted(self._first, row, side="right")) - 1
        file = self._files[position]
        number, line = file[row - self._first[position]]
        record = parse_line(line, file.path, number, self.required)
        return self._example(record, file, number, (self.order.seed, self.start, turn, row))

    required: tuple[str, ...] = ("units",)

    def _survey(self) -> None:
        """Read lines all over each manifest; raise what is wrong with them, log what the filters leave out."""
        reasons: Counter[str] = Counter()
        total = 0
        for begin, end in pairwise(self._first):
            rows = np.unique(np.linspace(begin, end - 1, min(end - begin, SURVEYED)).astype(np.int64))
            total += len(rows)
            for row in rows:
                example = self._read(int(row), 0)
                if isinstance(example, str):
                    reasons[example] += 1
        names = ", ".join(str(file.path) for file in self._files)
        if sum(reasons.values()) == total:
            raise InputError(f"all of {total} lines are left out: {_tally(reasons)}", names)
        if reasons and self.order.rank == 0:
            of = f"{total} lines" if total == len(self) else f"{total} of {len(self)} lines looked at"
            logging.info(f"{names}: {sum(reasons.values())} of {of} are left out: {_tally(reasons)}")


def _tally(reasons: Counter[str]) -> str:
    return "; ".join(f"{number} {reason}" for reason, number in reasons.most_common())


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
    """

    required = ("audio_filepath", "duration", "units")

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
        self._survey()
        self._check_audio()

    def _example(self, record: Record, file: LineIndex, number: int, key: tuple[int, ...]) -> MonoCut | str:
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

    def _crop_start(self, last: int, key: tuple[int, ...]) -> int:
        if self.truncate_offset_type == "random":
            return int(np.random.default_rng(key).integers(last + 1))
        return 0 if self.truncate_offset_type == "start" else last

    def _check_audio(self) -> None:
        for row in np.unique(np.linspace(0, len(self) - 1, _AUDIO_CHECKED).astype(np.int64)):
            cut = self._read(int(row), 0)
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

    Args:
        manifests: text manifests with ``text``, ``units`` and, if they are not to be drawn, ``unit_durations``.
        inventory: the units, with duration statistics where the manifest has no durations.
        labels: the characters; a target is a character's position here.
        frame_rate: frames per second that text is expanded to.
        order: see :class:`Order`.
        min_tokens: sentences expected to last fewer frames are left out.
        max_tokens: sentences expected to last more frames are left out.
        unknown_characters: ``"error"``, or ``"drop"`` to spell sentences without the characters not in ``labels``.
    """

    required = ("text", "units")

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
    ):
        super().__init__(manifests, inventory, order)
        if unknown_characters not in ("error", "drop"):
            raise InputError(f"unknown_characters is {unknown_characters!r}, expected error or drop")
        self.scale = frame_rate / inventory.frame_rate
        self.min_tokens = min_tokens or 0
        self.max_tokens = max_tokens or float("inf")
        self.unknown_characters = unknown_characters
        self._characters = {character: position for position, character in enumerate(labels)}
        self._expected: np.ndarray | None = None
        self._survey()

    def _example(self, record: Record, file: LineIndex, number: int, key: tuple[int, ...]) -> TextUnits | str:
        targets = self._targets(record["text"], file, number)
        if not len(targets):
            return "without a character"
        durations = None
        if record.get("unit_durations") is None:
            units = np.asarray(unit_ids(record, self.inventory, file.path, number), dtype=np.int32)
            num_frames = round(float(self._expected_frames()[units].sum()))
        else:
            sequence = unit_sequence(record, self.inventory, file.path, number)
            units = np.asarray(sequence.ids, dtype=np.int32)
            durations = rescale(sequence.durations, self.scale)
            num_frames = int(durations.sum())
        if num_frames < ctc_frames(targets):
            return "with fewer frames than their characters need"
        if num_frames < self.min_tokens:
            return f"shorter than min_tokens ({self.min_tokens:g} frames)"
        if num_frames > self.max_tokens:
            return f"longer than max_tokens ({self.max_tokens:g} frames)"
        return TextUnits(f"{file.path}:{number}", units, durations, targets, num_frames, key)

    def _targets(self, text: str, file: LineIndex, number: int) -> np.ndarray:
        ids = [self._characters.get(character, -1) for character in text]
        if -1 in ids:
            if self.unknown_characters == "error":
                raise InputError(
                    f"text has the character {text[ids.index(-1)]!r}, which is not among the {len(self._characters)} "
                    "labels; normalize the text, add it to the labels, or set unknown_characters=drop",
                    file.path,
                    number,
                )
            ids = [i for i in ids if i >= 0]
        return np.asarray(ids, dtype=np.int32)

    def _expected_frames(self) -> np.ndarray:
        if self._expected is None:
            DurationSampler(self.inventory)  # raises if there are units without statistics
            means = [self.inventory.durations[symbol].mean for symbol in self.inventory.symbols]
            self._expected = np.maximum(np.asarray(means) * self.scale, 1.0)
        return self._expected


def rescale(durations: Sequence[int], scale: float) -> np.ndarray:
    """Durations at another frame rate, at least 1; borders are rounded, not durations, so the sum does not drift."""
    boundaries = np.rint(np.cumsum(durations) * scale).astype(np.int64)
    return np.maximum(np.diff(boundaries, prepend=0), 1)


@data_type_parser("speech_units")
def read_speech_units(config: DictConfig) -> tuple[CutSet, bool]:
    """Parse an ``input_cfg`` item; its keys are the arguments of :class:`SpeechUnitsReader` and :class:`Order`."""
    keys = ("sample_rate", "min_duration", "max_duration", "truncate_duration", "truncate_offset_type")
    return CutSet(SpeechUnitsReader(**_shared(config), **_present(config, keys))), True


@data_type_parser("text_units")
def read_text_units(config: DictConfig) -> tuple[CutSet, bool]:
    """Parse an ``input_cfg`` item; its keys are the arguments of :class:`TextUnitsReader` and :class:`Order`."""
    keys = ("labels", "frame_rate", "min_tokens", "max_tokens", "unknown_characters")
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

"""Sentences of text manifests as units, with durations that are given or drawn."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from nemo.collections.common.data.lhotse.text_adapters import Formattable

from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.data.manifests.units import unit_ids, unit_sequence
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.manifest_reader import Key, ManifestReader
from nemo_speechlm.data.pretraining.speech_reader import with_inventory
from nemo_speechlm.data.text.characters import ctc_frames, is_special
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record
from nemo_speechlm.units.durations import DurationSampler
from nemo_speechlm.units.inventory import UnitInventory

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


class TextUnitsReader(ManifestReader):
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
        tokenizer: SentencePiece model, a file or the content of one: its tokens are the targets instead of characters.
    """

    type: ClassVar[str] = "text_units"
    required: ClassVar[tuple[str, ...]] = ("text", "units")
    kind: ClassVar[int] = 2
    options: ClassVar[tuple[str, ...]] = ("min_tokens", "max_tokens", "unknown_characters")
    facts: ClassVar[tuple[str, ...]] = ("inventory", "labels", "frame_rate", "max_frames", "tokenizer")

    def __init__(
        self,
        manifests: Sequence[str],
        inventory: UnitInventory,
        labels: Sequence[str] | None = None,
        frame_rate: float = 50.0,
        order: Order = Order(),  # noqa: B008 - immutable
        min_tokens: float | None = None,
        max_tokens: float | None = None,
        unknown_characters: str = "error",
        max_frames: int | None = None,
        tokenizer: str | bytes | None = None,
    ):
        super().__init__(manifests, order)
        self.inventory = inventory
        if unknown_characters not in ("error", "drop"):
            raise InputError(f"unknown_characters is {unknown_characters!r}, expected error or drop")
        self.frame_rate = frame_rate
        self.scale = frame_rate / inventory.frame_rate
        self.min_tokens = min_tokens or 0
        self.max_tokens = max_tokens or float("inf")
        self.max_frames = max_frames or float("inf")
        self.unknown_characters = unknown_characters
        self._tokens = None if tokenizer is None else TokenEncoder(tokenizer)
        if self._tokens is not None and unknown_characters == "drop":
            raise InputError("unknown_characters is 'drop', which is for models that write characters, not tokens")
        labels = labels or ()
        self._characters = {character: position for position, character in enumerate(labels)}
        if len(self._characters) != len(labels) or not all(len(c) == 1 or is_special(c) for c in labels):
            raise InputError(f"labels must be single characters, each once; found {list(labels)}")
        self._sampler: DurationSampler | None = None
        self._expected = np.empty(0)
        self._survey()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make it from an ``input_cfg`` item, in which the inventory is a file or what it holds."""
        return super().from_config(with_inventory(config))

    def _example(self, record: Record, file: IndexedManifest, number: int, key: Key | None) -> TextUnits | str:
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

    def _targets(self, text: Any, file: IndexedManifest, number: int) -> np.ndarray:
        if not isinstance(text, str):
            raise InputError(f"'text' is {text!r}, expected a string", file.path, number)
        if self._tokens is not None:
            return np.asarray(self._tokens(text, file.path, number), dtype=np.int32)
        ids = list(map(self._characters.get, text))
        if None in ids:
            if self.unknown_characters == "error":
                unknown = text[ids.index(None)]
                raise InputError(
                    f"text has the character {unknown!r}, which is not among the {len(self._characters)} "
                    "labels; normalize the text, add it to the labels, or set "
                    "model.train_ds.text.unknown_characters=drop (of validation_ds for validation)",
                    file.path,
                    number,
                )
            ids = [i for i in ids if i is not None]
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

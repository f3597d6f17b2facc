"""Speech to units: what every tokenizer of speech has in common.

A tokenizer is two classes: a :class:`SpeechTokenizing`, the plain values of a config in ``conf/speech_tokenizer/``
that names it as ``_target_``, and the :class:`SpeechTokenizer` that it makes in each worker process.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import Record
from nemo_speechlm.tokenizers.base import Tokenizing
from nemo_speechlm.units.inventory import UnitInventory


class SpeechInput(NamedTuple):
    """What a speech tokenizer works on.

    Attributes:
        samples: (S,) float32 in [-1, 1], at the tokenizer's sample rate.
        text: the transcript as it stands in the manifest, or None where there is none.
        record: the manifest's line, for other keys that a tokenizer needs (``speaker``, say).
    """

    samples: np.ndarray
    text: str | None
    record: Record


class SpeechUnits(NamedTuple):
    """What a speech tokenizer found in an utterance.

    Attributes:
        units: symbols of the inventory, in order.
        durations: frames of each, at the inventory's frame rate; at least 1.
        extra: further keys for the manifest's line.
    """

    units: Sequence[str]
    durations: Sequence[int]
    extra: Record = {}  # noqa: RUF012  # a NamedTuple's default; nobody writes to it


class SpeechTokenizer(ABC):
    """Turns audio into units; one in each worker process.

    Attributes:
        sample_rate: in Hz, of the audio that it is given.
    """

    sample_rate: int = 16000

    @abstractmethod
    def tokenize(self, utterance: SpeechInput) -> SpeechUnits:
        """The units of an utterance; they must not depend on those before it.

        Raises:
            InputError: if its transcript is bad, or one is missing.
            SkipItem: if no units were found in it, with the reason.
        """

    def tokenize_batch(self, utterances: Sequence[SpeechInput]) -> list[SpeechUnits | InputError | SkipItem]:
        """The units of several utterances, or why one has none, in their order."""
        found: list[SpeechUnits | InputError | SkipItem] = []
        for utterance in utterances:
            try:
                found.append(self.tokenize(utterance))
            except (InputError, SkipItem) as error:
                found.append(error)
        return found


class SpeechBatchTokenizer(SpeechTokenizer):
    """A tokenizer that works on several utterances at once."""

    def tokenize(self, utterance: SpeechInput) -> SpeechUnits:
        """The units of an utterance by itself."""
        (found,) = self.tokenize_batch([utterance])
        if not isinstance(found, SpeechUnits):
            raise found
        return found

    @abstractmethod
    def tokenize_batch(self, utterances: Sequence[SpeechInput]) -> list[SpeechUnits | InputError | SkipItem]:
        """The units of several utterances, or why one has none, in their order."""


@dataclass(frozen=True)
class SpeechTokenizing(Tokenizing):
    """How speech becomes units; its fields are the keys of its config."""

    @abstractmethod
    def inventory(self) -> UnitInventory:
        """All units that it makes, without duration statistics."""

    @property
    def libraries(self) -> Sequence[str]:
        """What reads and resamples audio."""
        return ("soundfile", "soxr")

    @abstractmethod
    def make(self) -> SpeechTokenizer:
        """The tokenizer; called once in each worker process."""

    def check(self, inventory: UnitInventory, path: str | Path) -> None:
        """Raise unless its units are those of an inventory that a user named, in the same frames."""
        check_units(self.inventory(), inventory, path)


def check_units(own: UnitInventory, inventory: UnitInventory, path: str | Path) -> None:
    """Raise unless all of a tokenizer's ``own`` units are in the inventory ``path``, of the same kind and frames."""
    for key in ("kind", "language", "frame_rate", "silence"):
        wanted, found = getattr(own, key), getattr(inventory, key)
        if wanted != found:
            raise InputError(f"unit inventory: {key} is {found!r}, but this tokenizer's is {wanted!r}", path)
    inventory.check_maker(own, path)
    missing = sorted(set(own.symbols) - set(inventory.symbols))
    if missing:
        raise InputError(
            f"{len(missing)} of the tokenizer's {len(own)} units are not among its {len(inventory)} units "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); was it made by another tokenizer?",
            path,
        )

"""Text to units: what every tokenizer of text has in common.

A tokenizer is two classes: a :class:`TextTokenizing`, the plain values of a config in ``conf/text_tokenizer/`` that
names it as ``_target_``, and the :class:`TextTokenizer` that it makes in each worker process.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.tokenizers.base import Tokenizing
from nemo_speechlm.units.inventory import UnitInventory


class TokenizedText(NamedTuple):
    """What a text tokenizer makes of a sentence.

    Attributes:
        units: symbols of the inventory, joined by spaces as in manifests.
        durations: frames of each, or None where they are drawn in training.
        extra: further keys for the manifest's line.
    """

    units: str
    durations: Sequence[int] | None = None
    extra: Mapping[str, Any] = {}  # a NamedTuple's default; nobody writes to it


class TextTokenizer(ABC):
    """Turns sentences into units; one in each worker process."""

    @abstractmethod
    def tokenize(self, text: str, rng: np.random.Generator) -> TokenizedText:
        """The units of a sentence; they depend only on the sentence and on ``rng``.

        Raises:
            InputError: if something in it cannot be turned into units.
            SkipItem: if it is to be left out, with the reason.
        """

    def tokenize_batch(
        self, texts: Sequence[str], rngs: Sequence[np.random.Generator]
    ) -> list[TokenizedText | InputError | SkipItem]:
        """The units of several sentences, or why one has none, in their order."""
        found: list[TokenizedText | InputError | SkipItem] = []
        for text, rng in zip(texts, rngs, strict=True):
            try:
                found.append(self.tokenize(text, rng))
            except (InputError, SkipItem) as error:
                found.append(error)
        return found


@dataclass(frozen=True)
class TextTokenizing(Tokenizing):
    """How text becomes units; its fields are the keys of its config."""

    @abstractmethod
    def inventory(self) -> UnitInventory:
        """The inventory to use where the user has none."""

    @abstractmethod
    def check(self, inventory: UnitInventory, path: str | Path) -> None:
        """Raise unless the units are those of an inventory that a user named."""

    @abstractmethod
    def make(self, inventory: UnitInventory) -> TextTokenizer:
        """The tokenizer, for an inventory that was checked; called once in each worker process."""


class LineGenerators(Sequence[np.random.Generator]):
    """The random generators of lines of a file; what is drawn depends on the seed and the line's number alone.

    They are one generator, which begins anew where its sequence for a line begins: to make one for each line takes
    longer than to tokenize it. Use one before you take the next.

    Args:
        seed: of all.
        numbers: of the lines.
    """

    def __init__(self, seed: int, numbers: Sequence[int]):
        self._numbers = numbers
        self._bits = np.random.Philox(key=seed)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: int) -> np.random.Generator:  # type: ignore[override]  # one at a time, no slices
        self._state["state"]["counter"][2] = self._numbers[place]  # a line has 2**128 numbers of its own
        self._bits.state = self._state
        return self._generator


def line_rng(seed: int, number: int) -> np.random.Generator:
    """The generator of a file's line."""
    return LineGenerators(seed, [number])[0]


def with_silences(words: Sequence[str], silence: str, probability: float, rng: np.random.Generator) -> str:
    """Join words' units (a string each): a silence at both ends, and between two words with ``probability``."""
    parts = list(words)
    for place in (rng.random(len(words) - 1) < probability).nonzero()[0].tolist():
        parts[place] = f"{parts[place]} {silence}"
    return f"{silence} {' '.join(parts)} {silence}"

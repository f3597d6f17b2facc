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


def line_rng(seed: int, number: int) -> np.random.Generator:
    """The generator of a file's line."""
    return np.random.default_rng((seed, number))


def with_silences(words: Sequence[str], silence: str, probability: float, rng: np.random.Generator) -> str:
    """Join words' units (a string each): a silence at both ends, and between two words with ``probability``."""
    silent = rng.random(len(words) - 1) < probability
    parts = [silence, words[0]]
    for word, pause in zip(words[1:], silent.tolist(), strict=True):
        if pause:
            parts.append(silence)
        parts.append(word)
    parts.append(silence)
    return " ".join(parts)

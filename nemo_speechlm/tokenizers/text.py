"""Text to units: what every tokenizer of text has in common, and the one that goes through pronunciations.

A tokenizer is two classes: a :class:`TextTokenizing`, the plain values of a config in ``conf/text_tokenizer/`` that
names it as ``_target_``, and the :class:`TextTokenizer` that it makes in each worker process.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.tokenizers.english import (
    SILENCE,
    SPOKEN_NOISE,
    UNKNOWN_WORD,
    VOWELS,
    EnglishPhonemizer,
    phoneme_inventory,
    read_lexicon,
    word_units,
)
from nemo_speechlm.tokenizers.tokenizing import Tokenizing
from nemo_speechlm.tokenizers.units import UnitInventory

Unknown = Literal["g2p", "spn", "error"]
"""What becomes of a word outside the lexicon: predicted phones, the unit ``SPN_S``, or an error."""

_SPOKEN = re.compile(r"[^\W_]")


class TextUnits(NamedTuple):
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
    def tokenize(self, text: str, rng: np.random.Generator) -> TextUnits:
        """The units of a sentence; they depend on nothing but it and what ``rng`` draws.

        Raises:
            InputError: if something in it cannot be turned into units.
            SkipItem: if it is to be left out, with the reason.
        """

    def tokenize_batch(
        self, texts: Sequence[str], rngs: Sequence[np.random.Generator]
    ) -> list[TextUnits | InputError | SkipItem]:
        """The units of several sentences, or why one has none, in their order."""
        found: list[TextUnits | InputError | SkipItem] = []
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
        """The inventory to begin with where the user has none."""

    @abstractmethod
    def check(self, inventory: UnitInventory, path: str | Path) -> None:
        """Raise unless the units are those of an inventory that a user named."""

    @abstractmethod
    def make(self, inventory: UnitInventory) -> TextTokenizer:
        """The tokenizer, for an inventory that was checked; called once in each worker process."""


@dataclass(frozen=True)
class EnglishTokenizing(TextTokenizing):
    """How English text becomes phoneme units; the arguments are those of :class:`PhonemeTextTokenizer`."""

    style: str = "position_stress"
    silence_probability: float = 0.25
    unknown: str = "g2p"
    lexicon: str | None = None

    def inventory(self) -> UnitInventory:
        """The inventory of English phonemes in this style."""
        return phoneme_inventory(self.style)

    def check(self, inventory: UnitInventory, path: str | Path) -> None:
        """Raise unless an inventory has the units that words of this style have, and the lexicon can be read."""
        if self.lexicon is not None:
            read_lexicon(self.lexicon)
        check_english_inventory(inventory, self.style, path)

    def make(self, inventory: UnitInventory) -> "PhonemeTextTokenizer":
        """The tokenizer."""
        return PhonemeTextTokenizer(self.style, self.silence_probability, self.unknown, self.lexicon)

    def files(self) -> Sequence[str]:
        """The lexicon."""
        return () if self.lexicon is None else (self.lexicon,)


class PhonemeTextTokenizer(TextTokenizer):
    """Turns English text into phoneme units: silences at both ends and now and then between words (paper, 3.2).

    Args:
        style: ``position_stress`` (the paper's) or ``plain``.
        silence_probability: of a silence between two words; both ends always have one.
        unknown: ``g2p``, ``spn`` or ``error``.
        lexicon: file of pronunciations that replace CMUdict's.
        seed: of the silences where ``units`` is given no generator.

    >>> " ".join(PhonemeTextTokenizer("plain", silence_probability=0).units("hello world"))
    'SIL HH AH L OW W ER L D SIL'
    """

    def __init__(
        self,
        style: str = "position_stress",
        silence_probability: float = 0.25,
        unknown: str = "g2p",
        lexicon: str | Path | None = None,
        seed: int = 0,
    ):
        self.inventory = phoneme_inventory(style)
        if unknown not in get_args(Unknown):
            raise InputError(f"unknown is {unknown!r}, expected {', '.join(get_args(Unknown))}")
        if unknown == "spn" and style == "plain":
            raise InputError("unknown=spn needs style=position_stress; the plain inventory has no spoken noise")
        if not 0 <= silence_probability <= 1:
            raise InputError(f"silence_probability is {silence_probability}, expected a number from 0 to 1")
        self.style, self.silence_probability, self.unknown, self.seed = style, silence_probability, unknown, seed
        self._phonemizer = EnglishPhonemizer(lexicon)
        self._words: dict[str, str] = {}
        self._rng = np.random.default_rng(seed)

    def tokenize(self, text: str, rng: np.random.Generator) -> TextUnits:
        """The units of a sentence, without durations."""
        return TextUnits(self.unit_string(text, rng))

    def line_rng(self, number: int) -> np.random.Generator:
        """The generator of a file's line: the same whoever works on it, so results do not depend on the workers."""
        return line_rng(self.seed, number)

    def units(self, text: str, rng: np.random.Generator | None = None) -> list[str]:
        """The units of a sentence.

        Raises:
            InputError: if no word of it can be pronounced, or, with ``unknown="error"``, one cannot.
        """
        return self.unit_string(text, rng).split()

    def unit_string(self, text: str, rng: np.random.Generator | None = None) -> str:
        """The units of a sentence, joined by spaces as in manifests."""
        words = [units for units in map(self._word, text.split()) if units]
        if not words or all(units == UNKNOWN_WORD for units in words):
            raise InputError(f"no word that can be pronounced in {text[:60]!r}")
        return with_silences(words, SILENCE, self.silence_probability, rng or self._rng)

    def _word(self, word: str) -> str:
        """The units of a word, joined by spaces; empty for a token of nothing but punctuation."""
        units = self._words.get(word)
        if units is None:
            units = self._words[word] = self._make_word(word)
        return units

    def _make_word(self, word: str) -> str:
        if not _SPOKEN.search(word):
            return ""
        if self.unknown != "g2p" and self._phonemizer.known(word) is None:
            if self.unknown == "error":
                raise InputError(f"{word!r} is not in the lexicon; see the option unknown")
            return UNKNOWN_WORD
        return " ".join(word_units(self._phonemizer.pronunciations(word)[0], self.style))


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


def check_english_inventory(inventory: UnitInventory, style: str, path: str | Path) -> None:
    """Raise unless the inventory has every unit that English text of this style may be turned into."""
    if inventory.kind != "phoneme" or inventory.language != "en":
        raise InputError(
            f"an inventory of {inventory.kind} units for language {inventory.language!r}; "
            "this makes English phoneme units",
            path,
        )
    wanted = [symbol for symbol in phoneme_inventory(style).symbols if _occurs_in_text(symbol, style)]
    missing = sorted(set(wanted) - set(inventory.symbols))
    if missing:
        raise InputError(
            f"{len(missing)} units of style={style} are not among its {len(inventory)} units ({', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); was it made with another style?",
            path,
        )
    if inventory.silence != SILENCE:
        raise InputError(f"its silence is {inventory.silence!r}, expected {SILENCE!r}", path)


def _occurs_in_text(symbol: str, style: str) -> bool:
    """Not so the positions of silence, and vowels without stress, which only alignments have."""
    phone = symbol.split("_")[0]
    if style == "plain" or symbol in (SILENCE, UNKNOWN_WORD):
        return True
    return phone not in (SILENCE, SPOKEN_NOISE, *VOWELS)

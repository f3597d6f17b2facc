"""Text to phoneme units: words through a lexicon, silences at the ends and now and then between words (paper, 3.2)."""

import re
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.tokenizers.english import (
    SILENCE,
    UNKNOWN_WORD,
    EnglishPhonemizer,
    phoneme_inventory,
    word_units,
)

Unknown = Literal["g2p", "spn", "error"]
"""What becomes of a word outside the lexicon: predicted phones, the unit ``SPN_S``, or an error."""

_SPOKEN = re.compile(r"[^\W_]")


class PhonemeTextTokenizer:
    """Turns English text into phoneme units.

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

    def line_rng(self, number: int) -> np.random.Generator:
        """The generator of a file's line: the same whoever works on it, so results do not depend on the workers."""
        return np.random.default_rng((self.seed, number))

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
        silent = (rng or self._rng).random(len(words) - 1) < self.silence_probability
        parts = [SILENCE, words[0]]
        for word, silence in zip(words[1:], silent.tolist(), strict=True):
            if silence:
                parts.append(SILENCE)
            parts.append(word)
        parts.append(SILENCE)
        return " ".join(parts)

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

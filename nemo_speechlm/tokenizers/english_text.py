"""English text to phoneme units: CMUdict, and a predictor for words it lacks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from nemo_speechlm.checks import check_choice, check_number
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.pronouncing.lexicons import read_lexicon
from nemo_speechlm.tokenizers.text import TextTokenizer, TextTokenizing, TokenizedText, line_rng, with_silences
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import SILENCE, SPOKEN_NOISE, UNKNOWN_WORD, VOWELS, phoneme_inventory, word_units

Unknown = Literal["g2p", "spn", "error"]
"""What becomes of a word outside the lexicon: predicted phones, the unit ``SPN_S``, or an error."""

_SPOKEN = re.compile(r"[^\W_]")


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

    @property
    def libraries(self) -> Sequence[str]:
        """Where pronunciations come from."""
        return ("cmudict", "g2p_en")

    def files(self) -> Sequence[str]:
        """The lexicon."""
        return () if self.lexicon is None else (self.lexicon,)

    @property
    def batch_size(self) -> int:
        """Sentences whose words are looked up at once."""
        return 512


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
        check_choice("unknown", unknown, get_args(Unknown))
        if unknown == "spn" and style == "plain":
            raise InputError("unknown=spn needs style=position_stress; the plain inventory has no spoken noise")
        check_number("silence_probability", silence_probability, least=0, most=1)
        self.style, self.silence_probability, self.unknown, self.seed = style, silence_probability, unknown, seed
        self._phonemizer = EnglishPhonemizer(lexicon)
        self._words: dict[str, str] = {}
        self._rng = np.random.default_rng(seed)

    def tokenize(self, text: str, rng: np.random.Generator) -> TokenizedText:
        """The units of a sentence, without durations."""
        return TokenizedText(self.unit_string(text, rng))

    def tokenize_batch(
        self, texts: Sequence[str], rngs: Sequence[np.random.Generator]
    ) -> list[TokenizedText | InputError | SkipItem]:
        """As :meth:`tokenize`; words that are new are looked up together."""
        if self.unknown == "g2p":
            new = {word for text in texts for word in text.split() if word not in self._words}
            self._phonemizer.prepare(sorted(word for word in new if _SPOKEN.search(word)))
        return super().tokenize_batch(texts, rngs)

    def line_rng(self, number: int) -> np.random.Generator:
        """The random generator of a line; it depends on the line alone, so results do not depend on the workers."""
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


def check_english_inventory(inventory: UnitInventory, style: str, path: str | Path) -> None:
    """Raise unless the inventory has every unit that English text in this style can become."""
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
    """Whether text can become this unit; silences with a position and unstressed vowels come from alignments only."""
    phone = symbol.split("_")[0]
    if style == "plain" or symbol in (SILENCE, UNKNOWN_WORD):
        return True
    return phone not in (SILENCE, SPOKEN_NOISE, *VOWELS)

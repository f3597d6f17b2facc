"""Pronunciations of any language that espeak-ng speaks, and text to their units.

espeak-ng and phonemizer are GPL. They come with the extra ``languages`` and are loaded only when words are to be
pronounced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nemo_speechlm.checks import check_choice, check_number
from nemo_speechlm.data.text.language import Language
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.pronouncing.espeak import EspeakPhonemizer
from nemo_speechlm.pronouncing.lexicons import read_any_lexicon
from nemo_speechlm.tokenizers.text import TextTokenizer, TextTokenizing, TokenizedText, with_silences
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import POSITIONS, SILENCE, check_style, phone_units


@dataclass(frozen=True)
class EspeakTokenizing(TextTokenizing):
    """How text of a language becomes the units of espeak-ng's pronunciations.

    Args:
        language: the values of a config in ``conf/language/``.
        style: ``position_stress``: units say where in the word a phone stands; ``plain``: they do not. Stress is the
            language's.
        silence_probability: of a silence between two words; both ends always have one.
        lexicon: file of pronunciations that go before espeak-ng's, in its phones.
        unknown: what becomes of a word with a phone that is not in the inventory: ``skip_line``, ``drop_word`` or
            ``error``.
    """

    language: Language | dict[str, Any]
    style: str = "position_stress"
    silence_probability: float = 0.25
    lexicon: str | None = None
    unknown: str = "skip_line"

    def __post_init__(self) -> None:
        object.__setattr__(self, "language", Language.of(self.language))
        check_style(self.style)
        check_number("silence_probability", self.silence_probability, least=0, most=1)
        check_choice("unknown", self.unknown, ("skip_line", "drop_word", "error"))

    def inventory(self) -> UnitInventory:
        """There is none without a corpus, which tells the phones of the language.

        Raises:
            InputError: always; with how to make one.
        """
        raise InputError(
            "no unit inventory; make it of a text: examples/make_lexicon.py "
            f"language={self.spoken.code} source=[text.json] output=lexicon.txt units=units.json"
        )

    def check(self, inventory: UnitInventory, path: str | Path) -> None:
        """Raise unless an inventory is of phonemes of this language, in this style."""
        if inventory.kind != "phoneme" or inventory.language != self.spoken.code:
            raise InputError(
                f"an inventory of {inventory.kind} units for language {inventory.language!r}, expected phonemes of "
                f"{self.spoken.code!r}",
                path,
            )
        if inventory.silence is None:
            raise InputError("the inventory has no silence", path)
        positions = any(symbol.endswith(tuple(f"_{p}" for p in POSITIONS)) for symbol in inventory.symbols)
        if positions != (self.style == "position_stress"):
            raise InputError(
                f"style is {self.style!r}, but its units are {', '.join(inventory.symbols[:4])}, ...", path
            )

    def make(self, inventory: UnitInventory) -> "EspeakTextTokenizer":
        """The tokenizer."""
        return EspeakTextTokenizer(self, inventory)

    @property
    def libraries(self) -> Sequence[str]:
        """Where pronunciations come from."""
        return ("phonemizer", "espeakng-loader")

    def files(self) -> Sequence[str]:
        """The lexicon."""
        return () if self.lexicon is None else (self.lexicon,)

    @property
    def spoken(self) -> Language:
        """The language as such."""
        assert isinstance(self.language, Language)
        return self.language

    @property
    def batch_size(self) -> int:
        """Sentences whose words are looked up at once."""
        return 64


class EspeakTextTokenizer(TextTokenizer):
    """Turns text into the units of its words' usual pronunciations.

    Args:
        tokenizing: how.
        inventory: of the units.
    """

    def __init__(self, tokenizing: EspeakTokenizing, inventory: UnitInventory):
        self._how, self._language = tokenizing, tokenizing.spoken
        lexicon = None if tokenizing.lexicon is None else read_any_lexicon(tokenizing.lexicon)
        self._phonemizer = EspeakPhonemizer(tokenizing.spoken, lexicon)
        self._silence, self._symbols = inventory.silence or SILENCE, frozenset(inventory.symbols)
        self._words: dict[str, str | None] = {}

    def tokenize(self, text: str, rng: np.random.Generator) -> TokenizedText:
        """The units of a sentence, without durations; its words if some of them were dropped."""
        every = self._language.sentence_words(text)
        words = self._language.own_words(text)
        if self._how.unknown == "drop_word":
            words = [word for word in words if self._word(word) is not None]
        units = [self._units(word) for word in words]
        if not units:
            raise SkipItem("no word that can be pronounced")
        dropped = (
            {"text": " ".join(words), "dropped_words": len(every) - len(words)} if len(words) < len(every) else {}
        )
        return TokenizedText(with_silences(units, self._silence, self._how.silence_probability, rng), None, dropped)

    def tokenize_batch(
        self, texts: Sequence[str], rngs: Sequence[np.random.Generator]
    ) -> list[TokenizedText | InputError | SkipItem]:
        """As :meth:`tokenize`; words that are new are looked up together."""
        foreign = self._language.foreign == "espeak"
        words = {word for text in texts for word in self._language.sentence_words(text)}
        self._phonemizer.prepare(sorted(word for word in words if foreign or not self._language.is_foreign(word)))
        return super().tokenize_batch(texts, rngs)

    def _units(self, word: str) -> str:
        units = self._word(word)
        if units is None:
            if self._how.unknown == "error":
                raise InputError(f"{word!r} cannot be pronounced, or with a phone that is not among the units")
            raise SkipItem(f"words with phones that are not among the units ({word!r})")
        return units

    def _word(self, word: str) -> str | None:
        """The units of a word, joined by spaces; None where one is not in the inventory, or there are none."""
        if word not in self._words:
            try:
                units = phone_units(self._phonemizer.pronunciations(word)[0], self._how.style)
            except InputError:
                units = []
            self._words[word] = " ".join(units) if units and self._symbols.issuperset(units) else None
        return self._words[word]

"""What an aligner needs of words: their pronunciations as units, and the acoustic phone of each unit."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.text.cleaning import SentenceCleaner
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.data.text.folding import APOSTROPHES, PunctuationFolder, in_lower_case, without_strays
from nemo_speechlm.errors import InputError
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.pronouncing.lexicons import Lexicon, LexiconPhonemizer, read_any_lexicon, read_lexicon
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import (
    FRAME_RATE,
    POSITIONS,
    SILENCE,
    base_phone,
    check_style,
    phoneme_inventory,
    without_position,
    word_units,
)


@dataclass(frozen=True)
class Pronouncing:
    """How words become units; it travels inside the aligner's file.

    Args:
        language: of the inventory, such as ``"en"``.
        style: ``plain`` or ``position_stress``: units that say where in a word a phone stands (``AH0_B``).
        phonemizer: ``english`` (CMUdict and a predictor), or None: the lexicon has all words.
        lexicon: pronunciations that take precedence over the phonemizer's.
        max_variants: pronunciations of a word that are tried.
        characters: letters that transcripts are reduced to; None is English's alphabet for English, and for other
            languages all letters.
    """

    language: str = "en"
    style: str = "position_stress"
    phonemizer: str | None = "english"
    lexicon: Lexicon = field(default_factory=dict, repr=False)
    max_variants: int = 4
    characters: str | None = None

    def __post_init__(self) -> None:
        check_style(self.style)
        check_number("max_variants", self.max_variants, 1, 250)  # each is a way into the next word, a byte's number
        if self.phonemizer not in (None, "english"):
            raise InputError(f"phonemizer is {self.phonemizer!r}, expected english or null")
        if self.phonemizer == "english" and self.language != "en":
            raise InputError(f"phonemizer is 'english', but language is {self.language!r}")
        if self.phonemizer is None and not self.lexicon:
            raise InputError("neither a phonemizer nor a lexicon: nothing says how words are pronounced")

    @classmethod
    def read(cls, lexicon: str | Path | None, **settings: Any) -> "Pronouncing":
        """Make one whose lexicon is a file; where the phonemizer is English, in CMUdict's ARPAbet."""
        if lexicon is None:
            return cls(**settings)
        reader = read_lexicon if settings.get("phonemizer", "english") == "english" else read_any_lexicon
        return cls(lexicon=reader(lexicon), **settings)

    def to_dict(self) -> dict[str, Any]:
        """All but the lexicon, in plain values."""
        return {key: getattr(self, key) for key in ("language", "style", "phonemizer", "max_variants", "characters")}

    @cached_property
    def inventory(self) -> UnitInventory:
        """All units that words may consist of, and silence."""
        if self.phonemizer == "english":
            return phoneme_inventory(self.style)
        phones = sorted({phone for variants in self.lexicon.values() for variant in variants for phone in variant})
        if self.style == "position_stress":
            phones = [f"{phone}_{position}" for phone in phones for position in POSITIONS]
        return UnitInventory("phoneme", self.language, FRAME_RATE, (SILENCE, *phones), silence=SILENCE)

    @cached_property
    def acoustic_phones(self) -> tuple[str, ...]:
        """The phones that acoustics can tell apart: without position, and in English without stress."""
        return tuple(dict.fromkeys(self.acoustic_phone(unit) for unit in self.inventory.symbols))

    def acoustic_phone(self, unit: str) -> str:
        """The phone whose sound a unit has."""
        if self.phonemizer == "english":
            return base_phone(unit)
        return without_position(unit) if self.style == "position_stress" else unit


class WordPronouncer:
    """Transcripts to words, words to their pronunciations in (unit, acoustic phone); memoized.

    Args:
        pronouncing: how.
    """

    def __init__(self, pronouncing: Pronouncing):
        self._how = pronouncing
        self._fallback = EnglishPhonemizer() if pronouncing.phonemizer == "english" else None
        self._lexicon = LexiconPhonemizer(pronouncing.lexicon)
        self._letters = "".join(sorted(set("".join(pronouncing.lexicon))))
        self._punctuation = PunctuationFolder(self._letters)
        self._made: dict[str, list[list[tuple[str, str]]]] = {}
        self._cleaner: SentenceCleaner | None = None
        if pronouncing.characters is not None:
            self._cleaner = SentenceCleaner(TextCleaning(characters=pronouncing.characters))
        elif pronouncing.language == "en":
            self._cleaner = SentenceCleaner(TextCleaning())

    def words(self, text: str) -> list[str]:
        """The words of a transcript, without punctuation.

        Raises:
            SkipItem: if nothing is left, or a letter is not among those of the language.
        """
        if self._cleaner is not None:
            return self._cleaner.clean(text).split()
        text = in_lower_case(unicodedata.normalize("NFC", self._punctuation(text)), self._letters)
        text = without_strays(text, self._letters)
        words = (
            "".join(c if c in APOSTROPHES or c == "-" or unicodedata.category(c)[0] in "LMN" else " " for c in text)
        ).split()
        return [
            part for word in (word.strip("-" + APOSTROPHES) for word in words) if word for part in self._parts(word)
        ]

    def _parts(self, word: str) -> list[str]:
        """The word, or what its hyphens join where the lexicon has that alone, as if "-" is no letter."""
        parts = [part for part in word.split("-") if part]
        known = self._how.lexicon
        return parts if word not in known and all(part in known for part in parts) else [word]

    def variants(self, word: str) -> list[list[tuple[str, str]]]:
        """Pronunciations of a word; of those that sound alike, the first.

        Raises:
            InputError: if it cannot be pronounced.
        """
        found = self._made.get(word)
        if found is None:
            found = self._made[word] = self._make(word)
        return found

    def unknown(self, words: Iterable[str]) -> list[str]:
        """Those of the words that cannot be pronounced, sorted, each once."""
        missing = set()
        for word in set(words):
            try:
                self.variants(word)
            except InputError:
                missing.add(word)
        return sorted(missing)

    def _make(self, word: str) -> list[list[tuple[str, str]]]:
        known = word.lower() in self._how.lexicon or self._fallback is None
        phonemizer = self._lexicon if known else self._fallback
        assert phonemizer is not None
        variants: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for phones in phonemizer.pronunciations(word):
            units = self._units(phones)
            sounds = tuple(self._how.acoustic_phone(unit) for unit in units)
            variants.setdefault(sounds, list(zip(units, sounds, strict=True)))
        return list(variants.values())[: self._how.max_variants]

    def _units(self, phones: Sequence[str]) -> list[str]:
        if self._how.phonemizer is None and self._how.style == "plain":  # the lexicon's phones are what they are
            return list(phones)
        return word_units(phones, self._how.style)

"""A language: values of a file in ``conf/language/``, so that adding one needs no code."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self, get_args

from nemo_speechlm.data.text.cleaning_options import check_composed
from nemo_speechlm.data.text.folding import APOSTROPHES, PunctuationFolder, in_lower_case, without_strays
from nemo_speechlm.errors import InputError, SkipItem

Foreign = Literal["skip_line", "drop_word", "espeak"]


@dataclass(frozen=True)
class Language:
    """A language's alphabet and how its words are pronounced.

    Args:
        code: ISO 639-1, such as ``"ru"``; of unit inventories.
        voice: of espeak-ng.
        characters: the alphabet in lower case, space included.
        stress: whether stressed vowels are phones of their own.
        foreign: what becomes of a word with a digit or with letters outside ``characters``.
        words: pronunciations that replace espeak-ng's: phones joined by spaces, the usual one first.
        normalizer: language code of nemo_text_processing, or None.
        optional: letters that many texts write without their accents, such as ё as е.
    """

    code: str
    voice: str
    characters: str
    stress: bool = True
    foreign: Foreign = "skip_line"
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    normalizer: str | None = None
    optional: str = ""

    def __post_init__(self) -> None:
        if self.foreign not in get_args(Foreign):
            raise InputError(f"language.foreign is {self.foreign!r}, expected {', '.join(get_args(Foreign))}")
        check_composed("language.characters", self.characters)
        if self.characters != in_lower_case(self.characters, self.characters) or " " not in self.characters:
            raise InputError(f"language.characters is {self.characters!r}, expected a space and letters in lower case")
        for word, variants in self.words.items():
            if not isinstance(word, str):  # YAML takes on, off, yes and no for true and false
                raise InputError(f"language.words: {word!r} is no word; write words such as on and no in quotes")
            if (
                isinstance(variants, str)
                or not variants
                or not all(isinstance(v, str) and v.split() for v in variants)
            ):
                raise InputError(f"language.words.{word} is {variants!r}, expected a list of phones joined by spaces")

    @classmethod
    def of(cls, values: "Mapping[str, Any] | Language") -> Self:
        """The language of a config's values.

        Raises:
            InputError: if a key is missing or is none of a language's.
        """
        if isinstance(values, cls):
            return values
        try:
            return cls(**values)  # type: ignore[arg-type]
        except TypeError as error:
            raise InputError(f"language: {error}; see conf/language/ru.yaml") from error

    @cached_property
    def _letters(self) -> frozenset[str]:
        return frozenset(self.characters) - {" "}

    @cached_property
    def _punctuation(self) -> PunctuationFolder:
        return PunctuationFolder(self.characters)

    def sentence_words(self, text: str) -> list[str]:
        """The words of a sentence in lower case, without punctuation; those of digits or other letters included.

        >>> Language("cs", "cs", " aábcdeěp").sentence_words("A, B - 'pěč'?")
        ['a', 'b', 'pěč']
        """
        text = in_lower_case(unicodedata.normalize("NFC", self._punctuation(text)), self.characters)
        text = without_strays(text, self._letters)
        spaced = "".join(c if c in self._letters or unicodedata.category(c)[0] in "LMN" else " " for c in text)
        return [word for word in (word.strip("-" + APOSTROPHES) for word in spaced.split()) if word]

    def is_foreign(self, word: str) -> bool:
        """Whether a word has a character outside the alphabet."""
        return not self._letters.issuperset(word)

    def own_words(self, text: str) -> list[str]:
        """The words of a sentence after the rule for foreign ones.

        Raises:
            SkipItem: if the sentence is left out.
        """
        words = self.sentence_words(text)
        if self.foreign == "espeak" or not any(map(self.is_foreign, words)):
            return words
        if self.foreign == "skip_line":
            word = next(filter(self.is_foreign, words))
            what = "digits" if word.isdigit() else "letters outside the alphabet"
            raise SkipItem(f"{what} ({word!r})")
        return [word for word in words if not self.is_foreign(word)]

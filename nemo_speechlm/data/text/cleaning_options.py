"""What text cleaning is asked to do."""

from dataclasses import dataclass
from typing import Literal, get_args

from nemo_speechlm.errors import InputError

Case = Literal["lower", "upper", "keep"]
OtherCharacters = Literal["skip_line", "drop_word", "drop"]
Normalizer = Literal["none", "nemo"]


@dataclass(frozen=True)
class TextCleaning:
    """What a sentence has to look like, and what is done to make it so.

    Args:
        characters: the alphabet, space included; punctuation that is not in it becomes a space.
        case: ``lower``, ``upper`` or ``keep``.
        other_characters: what to do about a letter or digit outside the alphabet: ``skip_line``, ``drop_word``,
            ``drop`` (the character alone).
        normalizer: ``nemo`` writes out numbers, dates, money and abbreviations with nemo_text_processing.
        language: for the normalizer; None where it does not have the language.
        normalizer_cache: folder for the normalizer's grammars, which take half a minute to build without it.
        min_words: minimum words per sentence; the other bounds likewise.
        max_words: None is no limit.
        min_characters: counted with spaces.
        max_characters: None is no limit.
        json_lines: whether the source has one JSON object with a key ``text`` a line, rather than plain sentences.
    """

    characters: str = " abcdefghijklmnopqrstuvwxyz'"
    case: Case = "lower"
    other_characters: OtherCharacters = "skip_line"
    normalizer: Normalizer = "none"
    language: str | None = "en"
    normalizer_cache: str | None = None
    min_words: int = 1
    max_words: int | None = None
    min_characters: int = 1
    max_characters: int | None = None
    json_lines: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("case", Case), ("other_characters", OtherCharacters), ("normalizer", Normalizer)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(get_args(kind))}")
        if not isinstance(self.characters, str):
            raise InputError(f"characters is {self.characters!r}, expected a text of all of them")
        if not any(c.isalpha() for c in self.characters):
            raise InputError(f"characters is {self.characters!r}: no letters in it, so nothing would be left")
        if cased(self.characters, self.case) != self.characters:
            raise InputError(f"case={self.case} makes letters that are not in characters ({self.characters!r})")


def cased(text: str, case: Case) -> str:
    """A text in the case that is asked for."""
    return text.upper() if case == "upper" else text.lower() if case == "lower" else text

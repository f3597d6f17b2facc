"""What text cleaning is asked to do."""

import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

from nemo_speechlm.data.text.folding import in_lower_case
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
        spellings: words, and what is written in their place.
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
    spellings: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (("case", Case), ("other_characters", OtherCharacters), ("normalizer", Normalizer)):
            if getattr(self, name) not in get_args(kind):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(get_args(kind))}")
        if not isinstance(self.characters, str):
            raise InputError(f"characters is {self.characters!r}, expected a text of all of them")
        if not any(c.isalpha() for c in self.characters):
            raise InputError(f"characters is {self.characters!r}: no letters in it, so nothing would be left")
        check_composed("characters", self.characters)
        if cased(self.characters, self.case, self.characters) != self.characters:
            raise InputError(f"case={self.case} makes letters that are not in characters ({self.characters!r})")


def check_composed(name: str, characters: str) -> None:
    """Check that an alphabet has its letters in the form that texts are brought to (NFKC).

    Raises:
        InputError: naming the first that has another one: it would never be found in a text.
    """
    for character in characters:
        if (form := unicodedata.normalize("NFKC", character)) != character:
            raise InputError(
                f"{name} has {character!r} (U+{ord(character):04X}), which texts have as {form!r} "
                f"({' '.join(f'U+{ord(c):04X}' for c in form)}) after Unicode's NFKC; give that instead"
            )
    if unicodedata.normalize("NFC", characters) != characters:
        raise InputError(
            f"{name} has letters that are composed of two characters ({characters!r}); give it in Unicode's NFC, as "
            "texts are brought to"
        )


def cased(text: str, case: Case, alphabet: str = "") -> str:
    """A text in the case that is asked for; by the rules of Turkish where the alphabet has both of its i."""
    if case == "lower":
        return in_lower_case(text, alphabet)
    if case == "upper":
        return (text.replace("i", "İ") if "İ" in alphabet and "I" in alphabet else text).upper()
    return text

"""Pronunciations that a user gives: a word and its phones a line."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from nemo_speechlm.data.text.folding import PLAIN_LETTERS, PunctuationFolder
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import iter_lines
from nemo_speechlm.units.phones import (
    CONSONANTS,
    SILENCE,
    VOWELS,
)

Pronunciation = tuple[str, ...]
"""ARPAbet phones with stress digits on the vowels, such as ``("HH", "AH0", "L", "OW1")``."""


_LETTERS = str.maketrans(PLAIN_LETTERS)
_one_punctuation = PunctuationFolder()


def fold_word(word: str) -> str:
    """Lower case, accents off, letters such as æ and ß in English ones, one kind of apostrophe and of hyphen."""
    decomposed = unicodedata.normalize("NFKD", _one_punctuation(word))
    plain = "".join(c for c in decomposed if not unicodedata.combining(c)).lower()
    return _one_punctuation(plain).translate(_LETTERS)


def add_variant(lexicon: dict[str, list[Pronunciation]], word: str, phones: Sequence[str]) -> None:
    """Add a pronunciation to a word's variants, unless it is one of them already."""
    if word.endswith(")") and "(" in word[1:]:  # a variant: "read(2)"
        word = word[: word.rindex("(")]
    variants = lexicon.setdefault(word, [])
    if tuple(phones) not in variants:
        variants.append(tuple(phones))


def read_lexicon(path: str | Path) -> dict[str, list[Pronunciation]]:
    """Read a lexicon: a word and its ARPAbet phones on each line; a repeated word has several pronunciations.

    Raises:
        InputError: at a line without phones or with a phone that CMUdict does not have.
    """
    phones = {*CONSONANTS, *(vowel + stress for vowel in VOWELS for stress in ("", "0", "1", "2"))}
    lexicon: dict[str, list[Pronunciation]] = {}
    for number, line in iter_lines(path):
        word, *pronunciation = line.split()
        unknown = [phone for phone in pronunciation if phone not in phones]
        if unknown or not pronunciation:
            found = f"found {unknown[0]!r}" if unknown else "found none"
            raise InputError(
                f"expected a word and its phones in CMUdict's ARPAbet (AH0, T, ...), {found}", path, number
            )
        add_variant(lexicon, fold_word(word), pronunciation)
    return lexicon


Lexicon = Mapping[str, Sequence[Sequence[str]]]
"""Pronunciations of words, the usual one first."""


class LexiconPhonemizer:
    """Pronunciations from a lexicon alone; words with an apostrophe at an edge ('tis, boys') may stand there without.

    Args:
        lexicon: of words in lower case.
    """

    def __init__(self, lexicon: Lexicon):
        self._lexicon = lexicon

    def pronunciations(self, word: str) -> Sequence[Sequence[str]]:
        """The word's pronunciations."""
        word = word.lower()
        found = self._lexicon.get(word) or self._lexicon.get(word.strip("'"))
        if not found:
            raise InputError(f"{word!r} is not in the lexicon")
        return found


_VARIANT = re.compile(r"(?<=.)\(\d+\)$")


def read_any_lexicon(path: str | Path) -> dict[str, list[tuple[str, ...]]]:
    """Read a lexicon in phones of any kind: a word and its phones a line, by tabs or spaces.

    A word that is repeated, or stands as ``word(2)``, has several pronunciations.

    Raises:
        InputError: at a word without phones, or if there is nothing in it.
    """
    lexicon: dict[str, list[tuple[str, ...]]] = {}
    for number, line in iter_lines(path):
        word, *phones = unicodedata.normalize("NFC", line).split()
        if not phones:
            raise InputError(f"expected a word and its phones, found {word!r} alone", path, number)
        if SILENCE in phones:
            raise InputError(
                f"{SILENCE} is a phone of {word!r}; silences between words are found without it", path, number
            )
        variants = lexicon.setdefault(_VARIANT.sub("", word).lower(), [])
        if tuple(phones) not in variants:
            variants.append(tuple(phones))
    if not lexicon:
        raise InputError("no words in it", path)
    return lexicon

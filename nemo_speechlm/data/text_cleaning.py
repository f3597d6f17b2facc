"""Plain text into normalized sentences: one alphabet, no punctuation, no duplicates, some held out for validation."""

import functools
import hashlib
import logging
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from nemo_speechlm.data.manifest import Record, parse_line
from nemo_speechlm.errors import InputError, SkipItem, SpeechLMError
from nemo_speechlm.files import iter_lines
from nemo_speechlm.jobs import Work

Case = Literal["lower", "upper", "keep"]
OtherCharacters = Literal["skip_line", "drop_word", "drop"]
Normalizer = Literal["none", "nemo"]

_OTHER = "\0"
_APOSTROPHES = frozenset("'\u2018\u2019\u02bc\uff07`\u00b4")
_FOLDED = {"æ": "ae", "œ": "oe", "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "th", "þ": "th", "\u0131": "i"}
_SEVERAL_READINGS = ("ru",)
_ELIDED = re.compile(
    "'(?:tis|twas|twere|twill|twould|em|till?|bout|cause|course|round|neath|gainst|mongst)", re.IGNORECASE
)
_NEEDS_NORMALIZER = re.compile(r"[0-9$£€¥₽%&@#°½¼¾№]|\b(?:Mr|Mrs|Ms|Dr|St|Prof|Capt|Col|Gen|Lt|Rev|Hon|etc|vs)\.")


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
        min_words: shortest sentence kept, and so on.
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
        if not any(c.isalpha() for c in self.characters):
            raise InputError(f"characters is {self.characters!r}: no letters in it, so nothing would be left")
        if _cased(self.characters, self.case) != self.characters:
            raise InputError(f"case={self.case} makes letters that are not in characters ({self.characters!r})")


class SentenceCleaner:
    """Cleans sentences as a :class:`TextCleaning` says.

    >>> SentenceCleaner(TextCleaning()).clean("\u201cDon\u2019t,\u201d said the 'old' na\u00efve man\u2014softly.")
    "don't said the old naive man softly"
    """

    def __init__(self, cleaning: TextCleaning):
        self._cleaning = cleaning
        self._table = _CharacterTable(cleaning.characters)
        self._normalize = _nemo_normalizer(cleaning) if cleaning.normalizer == "nemo" else None

    def clean(self, text: str) -> str:
        """The sentence in the wanted alphabet.

        Raises:
            SkipItem: if it is left out, with the reason.
        """
        cleaning = self._cleaning
        if self._normalize is not None and _NEEDS_NORMALIZER.search(text):
            text = self._normalize(text)  # before NFKC, which makes 21/2 of two and a half
        text = _cased(unicodedata.normalize("NFKC", text), cleaning.case)
        translated = text.translate(self._table)
        words = translated.split()
        if _OTHER in translated:
            if cleaning.other_characters == "skip_line":
                raise SkipItem(self._reason(text))
            if cleaning.other_characters == "drop_word":
                words = [word for word in words if _OTHER not in word]
            words = [word.replace(_OTHER, "") for word in words]
        words = [word for word in map(_without_quotes, filter(None, words)) if word]
        text = " ".join(words)
        self._check_length(len(words), len(text))
        return text

    def _reason(self, text: str) -> str:
        others = [c for c in text if self._table[ord(c)] == _OTHER]
        if all(c.isdigit() for c in others):
            return "digits (normalizer=nemo writes them out)"
        return f"letters outside characters: {next(c for c in others if not c.isdigit())!r}"

    def _check_length(self, words: int, characters: int) -> None:
        cleaning = self._cleaning
        if not words:
            raise SkipItem("no words")
        if words < cleaning.min_words:
            raise SkipItem(f"fewer than min_words={cleaning.min_words} words")
        if cleaning.max_words is not None and words > cleaning.max_words:
            raise SkipItem(f"more than max_words={cleaning.max_words} words")
        if characters < cleaning.min_characters:
            raise SkipItem(f"fewer than min_characters={cleaning.min_characters} characters")
        if cleaning.max_characters is not None and characters > cleaning.max_characters:
            raise SkipItem(f"more than max_characters={cleaning.max_characters} characters")


class _CharacterTable(dict[int, str]):
    """For ``str.translate``: what becomes of each character, found out when it is first met."""

    def __init__(self, characters: str):
        super().__init__()
        self._characters = frozenset(characters) - {" "}

    def __missing__(self, code: int) -> str:
        self[code] = result = self._of(chr(code))
        return result

    def _of(self, character: str) -> str:
        if character in self._characters:
            return character
        if character in _APOSTROPHES:  # dropped where the alphabet has none: "dont" keeps its sound, "don t" does not
            return "'" if "'" in self._characters else ""
        category = unicodedata.category(character)
        if category in ("Cf", "Mn", "Cc") and not character.isspace():  # soft hyphens, stray accents
            return ""
        if category[0] in "PSZC":
            return " "
        return self._folded(character)

    def _folded(self, character: str) -> str:
        """The character without its accents, if that is in the alphabet."""
        plain = _FOLDED.get(character.lower()) or "".join(
            c for c in unicodedata.normalize("NFD", character) if not unicodedata.combining(c)
        )
        plain = plain.upper() if character.isupper() else plain
        return plain if set(plain) <= self._characters else _OTHER


def _cased(text: str, case: Case) -> str:
    return text.upper() if case == "upper" else text.lower() if case == "lower" else text


def _without_quotes(word: str) -> str:
    """Apostrophes at a word's edges taken off where they are quotation marks: not from 'tis, boys' or dancin'.

    So are hyphens, which are dashes there, where the alphabet has them.
    """
    if word[0] == "-" or word[-1] == "-":
        word = word.strip("-")
    if not (word.startswith("'") or word.endswith("'")):
        return word
    if word.startswith("'") and not _ELIDED.fullmatch(word):
        return word.strip("'")
    return word if word.lower().endswith(("s'", "in'")) else word.rstrip("'")


def _nemo_normalizer(cleaning: TextCleaning) -> Callable[[str], str]:
    """NeMo's normalizer, built when the first sentence needs it."""

    @functools.cache
    def normalizer() -> Any:
        from nemo_text_processing.text_normalization.normalize import Normalizer

        logging.getLogger("NeMo-text-processing").setLevel(logging.WARNING)
        return Normalizer(input_case="cased", lang=cleaning.language, cache_dir=cleaning.normalizer_cache)

    if cleaning.language in _SEVERAL_READINGS:
        return _first_reading(cleaning)
    return lambda text: normalizer().normalize(text, verbose=False)


def _first_reading(cleaning: TextCleaning) -> Callable[[str], str]:
    """NeMo's normalizer of a language in which it gives every reading; which one is meant, only audio would say."""

    @functools.cache
    def normalizer() -> Any:
        from nemo_text_processing.text_normalization.normalize_with_audio import NormalizerWithAudio

        logging.getLogger("NeMo-text-processing").setLevel(logging.WARNING)
        return NormalizerWithAudio(input_case="cased", lang=cleaning.language, cache_dir=cleaning.normalizer_cache)

    def first(text: str) -> str:
        found = normalizer().normalize(text, n_tagged=1, verbose=False)
        return found if isinstance(found, str) else min(found)  # a set: its own order is another in each process

    return first


def check_normalizer(cleaning: TextCleaning) -> None:
    """Before a job: see that its normalizer is installed, and build its cache before several workers want to.

    Raises:
        SpeechLMError: if it is not installed.
    """
    if cleaning.normalizer == "none":
        return
    if cleaning.language is None:
        raise SpeechLMError("normalizer=nemo does not have this language; normalizer=none, and numbers are left out")
    if find_spec("nemo_text_processing") is None:
        raise SpeechLMError("normalizer=nemo needs nemo_text_processing: pip install 'nemo_speechlm[normalize]'")
    if cleaning.normalizer_cache is not None:
        _build_grammars(cleaning, Path(cleaning.normalizer_cache))


def _build_grammars(cleaning: TextCleaning, cache: Path) -> None:
    """Fill the cache, once: under another name first, for half a grammar would be taken for a whole one."""
    if any(cache.glob(f"*{cleaning.language}_tn*.far")):
        return
    print(f"building the grammars of {cleaning.language}, once; minutes ...")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial.", dir=cache) as building:
        _nemo_normalizer(replace(cleaning, normalizer_cache=building))("1")
        for grammar in sorted(Path(building).iterdir()):
            os.replace(grammar, cache / grammar.name)


def is_json_lines(source: str | Path) -> bool:
    """Whether a text file's first line that is not blank looks like a JSON object."""
    return next((line.lstrip().startswith("{") for _, line in iter_lines(source)), False)


def make_cleaning_work(cleaning: TextCleaning, source: str | Path) -> Work:
    """The work of a job (see :mod:`nemo_speechlm.jobs`) that cleans the lines of ``source``."""
    cleaner = SentenceCleaner(cleaning)

    def work(number: int, line: str) -> Record:
        if not cleaning.json_lines:
            return {"text": cleaner.clean(line)}
        text = parse_line(line, source, number, ["text"])["text"]
        if not isinstance(text, str):
            raise InputError(f"text is {type(text).__name__}, expected a string", source, number)
        return {"text": cleaner.clean(text)}

    return work


def place_sentences(
    records: Iterable[Record], *, unique: bool, valid_lines: int, valid_output: Path | None, seed: int
) -> Sequence[Path | str | None]:
    """Where each sentence goes: repeated ones nowhere, ``valid_lines`` random ones to ``valid_output``.

    Needs 16 bytes a sentence, so that a corpus of tens of millions fits in memory. A held-out sentence occurs nowhere
    else if ``unique``.

    Raises:
        InputError: if there are no more than ``valid_lines`` sentences.
    """
    keys = np.fromiter((_key(record["text"]) for record in records), dtype=np.uint64)
    kept = np.sort(np.unique(keys, return_index=True)[1]) if unique else np.arange(len(keys))
    if valid_lines and valid_lines >= len(kept):
        raise InputError(f"valid_lines={valid_lines}, but the source gives {len(kept)} in all")
    held_out = np.random.default_rng(seed).choice(kept, valid_lines, replace=False)
    choices: tuple[Path | str | None, ...] = (None, "a repeated sentence", valid_output)
    codes = np.ones(len(keys), dtype=np.int8)
    codes[kept] = 0
    codes[held_out] = 2
    return _Places(codes, choices)


class _Places(Sequence):
    """A byte per sentence instead of an object."""

    def __init__(self, codes: np.ndarray, choices: tuple[Path | str | None, ...]):
        self._codes, self._choices = codes, choices

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, index: Any) -> Any:
        return self._choices[self._codes[index]]


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

"""Texts as ids of phones: what MAESTRO's text encoder reads."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nemo_speechlm.checks import check_choice
from nemo_speechlm.data.text.language import Language
from nemo_speechlm.errors import InputError
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.pronouncing.espeak import EspeakPhonemizer
from nemo_speechlm.pronouncing.lexicons import read_any_lexicon
from nemo_speechlm.pronouncing.phonemizer import Phonemizer
from nemo_speechlm.units.phones import SILENCE, phone_units, word_units

Source = Literal["cmudict", "espeak"]


class PhoneEncoder:
    """Text to phone ids: the usual pronunciation of each word. Pronunciations are looked up once.

    Args:
        language: values of a file in ``conf/language/``.
        source: ``cmudict``, English alone, or ``espeak``; None: CMUdict for English, espeak-ng for others.
        lexicon: file of pronunciations that replace those of the source.
        silence: a silence at both ends of a text, since recordings begin and end with one.
        symbols: the phones that ids are positions of; None: all of English, or those of :meth:`learn`.

    Raises:
        InputError: if an argument has a wrong value.

    >>> encoder = PhoneEncoder({"code": "en", "voice": "en-us", "characters": " abcdefghijklmnopqrstuvwxyz'"})
    >>> [encoder.symbols[phone] for phone in encoder("hello")]
    ['SIL', 'HH', 'AH', 'L', 'OW', 'SIL']
    """

    def __init__(
        self,
        language: Mapping[str, Any],
        source: Source | None = None,
        lexicon: str | Path | None = None,
        silence: bool = True,
        symbols: Sequence[str] | None = None,
    ):
        self._language = Language.of(language)
        self.english = (source or ("cmudict" if self._language.code == "en" else "espeak")) == "cmudict"
        if source is not None:
            check_choice("model.phones.source", source, ("cmudict", "espeak"))
        if self.english and self._language.code != "en":
            raise InputError(f"model.phones.source is cmudict, and language.code {self._language.code!r}, expected en")
        self.silence = silence
        self._phonemizer = self._make_phonemizer(lexicon)
        self._take(self._inventory(()) if symbols is None and self.english else symbols or ())

    def _make_phonemizer(self, lexicon: str | Path | None) -> Phonemizer:
        if self.english:
            return EnglishPhonemizer(lexicon)
        return EspeakPhonemizer(self._language, None if lexicon is None else read_any_lexicon(lexicon))

    def _take(self, symbols: Iterable[str]) -> None:
        self.symbols = list(symbols)
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}
        self._words: dict[str, list[int]] = {}

    def _inventory(self, words: Iterable[str]) -> list[str]:
        symbols = self._phonemizer.inventory("plain", words).symbols
        return [symbol for symbol in symbols if self.silence or symbol != SILENCE]

    def learn(self, texts: Iterable[str]) -> None:
        """Let the phones be those of the texts, where the source does not know them beforehand."""
        if not self.english:
            self._take(self._inventory(sorted({word for text in texts for word in self.words(text)})))

    def words(self, text: str) -> list[str]:
        """The words of a text, without punctuation that stands alone."""
        if not self.english:
            return self._language.sentence_words(text)
        return [word for word in text.split() if any(character.isalnum() for character in word)]

    def __call__(self, text: str, path: str | Path | None = None, line: int | None = None) -> list[int]:
        """The phones of a text.

        Raises:
            InputError: if it has no word, or one that cannot be pronounced with the phones there are.
        """
        words = self.words(text)
        if not words:
            raise InputError(f"no word that can be pronounced in {text[:60]!r}", path, line)
        if not self.english:
            self._phonemizer.prepare(word for word in words if word not in self._words)
        ids = [phone for word in words for phone in self._word(word, path, line)]
        edge = [self._ids[SILENCE]] if self.silence else []
        return [*edge, *ids, *edge]

    def _word(self, word: str, path: str | Path | None, line: int | None) -> list[int]:
        ids = self._words.get(word)
        if ids is None:
            try:
                phones = self._phonemizer.pronunciations(word)[0]
            except InputError as error:
                raise InputError(f"a word without a pronunciation: {error.reason}", path, line) from error
            units = word_units(phones, "plain") if self.english else phone_units(phones, "plain")
            if missing := [unit for unit in units if unit not in self._ids]:
                raise InputError(
                    f"{word!r} is pronounced with {missing[0]!r}, which is not among the {len(self._ids)} phones of "
                    "the model",
                    path,
                    line,
                )
            ids = self._words[word] = [self._ids[unit] for unit in units]
        return ids

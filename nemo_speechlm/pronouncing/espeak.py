"""Words to phones by espeak-ng, for any of its languages."""

import logging
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from nemo_speechlm.data.espeak_library import espeak_files
from nemo_speechlm.data.text.language import Language
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.pronouncing.phonemizer import Phonemizer
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import phone_inventory

Pronunciation = tuple[str, ...]
"""Phones in IPA as espeak-ng writes them; those of stressed vowels begin with ˈ or ˌ."""


class EspeakPhonemizer(Phonemizer):
    """Pronunciations of single words by espeak-ng, memoized; many at once are faster (:meth:`prepare`).

    Args:
        language: the language, with corrections of words that espeak-ng gets wrong.
        lexicon: pronunciations that take precedence over both.

    >>> from nemo_speechlm.testing.corpora import russian
    >>> EspeakPhonemizer(russian()).pronunciations("мама")
    [('m', 'ˈɑ', 'm', 'a')]
    """

    def __init__(self, language: Language, lexicon: Mapping[str, Sequence[Sequence[str]]] | None = None):
        self.language = language.code
        self._language = language
        self._known: dict[str, list[Pronunciation]] = {
            unicodedata.normalize("NFC", word).lower(): [tuple(variant.split()) for variant in variants]
            for word, variants in language.words.items()
        }
        self._known.update((word, [tuple(v) for v in variants]) for word, variants in (lexicon or {}).items())

    def pronunciations(self, word: str) -> list[Pronunciation]:
        """The word's pronunciations."""
        found = self._known.get(word)
        if found is None:
            self.prepare([word])
            found = self._known[word]
        if not found:
            raise InputError(f"espeak-ng has no pronunciation of {word!r}")
        return found

    def prepare(self, words: Iterable[str]) -> None:
        """Look several words up at once."""
        new = [word for word in dict.fromkeys(words) if word not in self._known]
        if not new:
            return
        spoken = self._backend.phonemize(new, separator=self._separator, strip=True)
        for word, phones in zip(new, spoken, strict=True):
            parts = [phone.strip("-") for phone in phones.split()]
            self._known[word] = [tuple(phone for phone in parts if phone)] if any(parts) else []

    def inventory(self, style: str, words: Iterable[str]) -> UnitInventory:
        """Silence and the phones that occur in the words, sorted, each with all positions if the style has them."""
        words = list(words)
        self.prepare(words)
        phones = {phone for word in words for variant in self._known[word] for phone in variant}
        return phone_inventory(self.language, phones, style)

    @cached_property
    def _separator(self) -> Any:
        from phonemizer.separator import Separator

        return Separator(phone=" ", word="  ", syllable="")

    @cached_property
    def _backend(self) -> Any:
        library, data = espeak_files()
        try:
            from phonemizer.backend import EspeakBackend
            from phonemizer.backend.espeak.wrapper import EspeakWrapper
        except ImportError as error:
            raise SpeechLMError(
                "pronunciations by espeak-ng need phonemizer (GPL): pip install 'nemo_speechlm[languages]'"
            ) from error
        EspeakWrapper.set_library(str(library))
        EspeakWrapper.set_data_path(str(data))
        quiet = logging.getLogger(f"{__name__}.phonemizer")
        quiet.setLevel(logging.ERROR)  # it warns of each word in which espeak-ng changes to another language
        try:
            return EspeakBackend(
                self._language.voice, with_stress=self._language.stress, language_switch="remove-flags", logger=quiet
            )
        except RuntimeError as error:
            raise InputError(f"language.voice is {self._language.voice!r}: {error}") from error

"""Phones of references and hypotheses, for phone error rates."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from nemo_speechlm.command_help import language_file
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.report import Phones
from nemo_speechlm.files import Record
from nemo_speechlm.pronouncing.phonemizer import Phonemizer
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import without_position

_ARPABET = re.compile("[A-Z]+[012]")

NOT_SPOKEN = ("SIL", "SPN")
"""Silence and noise; without positions, which they have in Kaldi's alignments."""


PRONOUNCED = 0.9
"""The least share of the references' words that a phonemizer of their language knows."""


def make_phones(
    language: str, units_field: str | None, languages: Sequence[Path], references: Sequence[str] = ()
) -> Phones:
    """Return a function that makes phones of references and hypotheses, without stress, positions and silences.

    Args:
        language: whose phonemizer pronounces texts: ``en`` for English, or a file in one of ``languages``.
        units_field: manifest field of phoneme units that are the references' phones; None pronounces them.
        languages: folders of language configs.
        references: the texts, if they are what is pronounced.

    Raises:
        SpeechLMError: if there is no such language, or it does not pronounce the references' words: they would count
            as one phone each, and the phone error rate would be that of words.
    """
    phonemizer, words = _phonemizer(language, languages)

    @cache
    def word(text: str) -> tuple[str, ...]:
        try:
            return tuple(bare_phone(phone) for phone in phonemizer.pronunciations(text)[0])
        except InputError:
            return (f"?{text}",)  # counts as one phone, which is right if it is the same word

    def sentence(text: str) -> list[str]:
        return [phone for spoken in words(text) for phone in word(spoken)]

    if units_field is None:
        spoken = Counter(each for text in references for each in words(text))
        strange = [each for each in spoken if word(each) == (f"?{each}",)]
        share = sum(spoken[each] for each in strange) / max(1, spoken.total())
        if share > 1 - PRONOUNCED:
            raise SpeechLMError(
                f"phonemizer={language} cannot pronounce {share:.0%} of the words of the references, such as "
                f"{strange[0]!r}; give the language of the texts"
            )

    def phones(record: Record, reference: str, hypothesis: str) -> tuple[Sequence[str], Sequence[str]]:
        if units_field is None:
            return sentence(reference), sentence(hypothesis)
        return spoken_units(record, units_field), sentence(hypothesis)

    return phones


def spoken_units(record: Record, units_field: str) -> list[str]:
    """The phones of a record's units, silences left out.

    Raises:
        InputError: if it has none.
    """
    units = record.get(units_field)
    if isinstance(units, str):
        units = units.split()
    if not isinstance(units, list) or not all(isinstance(unit, str) and not unit.isdigit() for unit in units):
        name = record.get("audio_filepath", "a line")
        raise InputError(f"{name}: {units_field!r} is {str(units)[:40]!r}, expected symbols of phoneme units")
    return [phone for phone in map(bare_phone, units) if phone not in NOT_SPOKEN]


def bare_phone(symbol: str) -> str:
    """A phone without its position in the word and without the digit or mark of its stress; tones are kept.

    >>> bare_phone("AH0_B"), bare_phone("T"), bare_phone("ˈa_S"), bare_phone("i2"), bare_phone("t_s_B")
    ('AH', 'T', 'a', 'i2', 't_s')
    """
    phone = without_position(symbol).lstrip("ˈˌ")
    return phone.rstrip("012") if _ARPABET.fullmatch(phone) else phone


def phones_of_units(inventory: UnitInventory) -> list[str]:
    """The phone of each unit of an inventory; a hidden unit is one by itself."""
    return [symbol if inventory.kind == "hidden" else bare_phone(symbol) for symbol in inventory.symbols]


def _phonemizer(language: str, languages: Sequence[Path]) -> tuple[Phonemizer, Callable[[str], list[str]]]:
    """What pronounces words, and what finds them in a text, without punctuation that stands alone."""
    if language == "en":
        from nemo_speechlm.pronouncing.english import EnglishPhonemizer

        return EnglishPhonemizer(), lambda text: [word for word in text.split() if any(map(str.isalnum, word))]
    from nemo_speechlm.data.text.language import Language
    from nemo_speechlm.pronouncing.espeak import EspeakPhonemizer

    values = OmegaConf.to_container(OmegaConf.load(language_file(language, languages)))
    assert isinstance(values, dict)
    spoken = Language.of(values.get("language", values))
    return EspeakPhonemizer(spoken), spoken.sentence_words

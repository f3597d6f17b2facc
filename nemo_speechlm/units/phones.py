"""Phones as units: English ones with stress and position in the word, and those of other languages."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from nemo_speechlm.errors import InputError
from nemo_speechlm.units.inventory import UnitInventory

PhonemeStyle = Literal["position_stress", "plain"]
"""``position_stress``: the paper's, ``AH0_B``; ``plain``: the 39 phones of CMUdict without stress."""

VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N"),
    *("NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
)
SILENCE = "SIL"
SPOKEN_NOISE = "SPN"
UNKNOWN_WORD = "SPN_S"
"""The unit of a word without a pronunciation, in the style ``position_stress``."""
POSITIONS = ("B", "E", "I", "S")
"""Begin, end, inside of a word, and singleton: the only phone of a word."""
_POSITION = re.compile(f"_[{''.join(POSITIONS)}]$")

FRAME_RATE = 100


def phoneme_inventory(style: str = "position_stress") -> UnitInventory:
    """The inventory of English phonemes in a style, without duration statistics.

    ``position_stress`` has the 346 phones of the Kaldi recipe for LibriSpeech, from which the paper's labels come: SIL
    and SPN, and every phone with each position; vowels with each stress and without one. ``plain`` has 39 phones and
    SIL.

    Raises:
        InputError: if there is no such style.
    """
    check_style(style)
    if style == "plain":
        symbols = [SILENCE, *sorted(VOWELS + CONSONANTS)]
    else:
        silences = [name + suffix for name in (SILENCE, SPOKEN_NOISE) for suffix in _suffixes(bare=True)]
        phones = sorted((*CONSONANTS, *(vowel + stress for vowel in VOWELS for stress in ("", "0", "1", "2"))))
        symbols = silences + [phone + suffix for phone in phones for suffix in _suffixes()]
    return UnitInventory("phoneme", "en", FRAME_RATE, tuple(symbols), silence=SILENCE)


def _suffixes(bare: bool = False) -> list[str]:
    return [""] * bare + [f"_{position}" for position in POSITIONS]


def check_style(style: str) -> None:
    """Raise unless there is a phoneme style of this name."""
    if style not in get_args(PhonemeStyle):
        raise InputError(f"no phoneme style {style!r}; there are: {', '.join(get_args(PhonemeStyle))}")


def word_units(phones: Sequence[str], style: str = "position_stress") -> list[str]:
    """The units of one word.

    >>> word_units(("HH", "AH0", "L", "OW1"))
    ['HH_B', 'AH0_I', 'L_I', 'OW1_E']
    >>> word_units(("HH", "AH0", "L", "OW1"), "plain")
    ['HH', 'AH', 'L', 'OW']
    """
    if style == "plain":
        return [base_phone(phone) for phone in phones]
    if len(phones) == 1:
        return [f"{phones[0]}_S"]
    return [
        f"{phone}_{'B' if position == 0 else 'E' if position == len(phones) - 1 else 'I'}"
        for position, phone in enumerate(phones)
    ]


def base_phone(symbol: str) -> str:
    """A phone or unit without its position and stress: ``AH0_B`` is ``AH``."""
    return symbol.split("_", 1)[0].rstrip("012")


def without_position(symbol: str) -> str:
    """A unit of any language without its position in the word.

    >>> without_position("ˈa_I"), without_position("t_s")
    ('ˈa', 't_s')
    """
    return _POSITION.sub("", symbol)


def phone_of_unit(symbol: str, language: str) -> str:
    """The phone of a phoneme unit: without its position in the word, and in English without stress."""
    return base_phone(symbol) if language == "en" else without_position(symbol)


def phone_inventory(language: str, phones: Iterable[str], style: str) -> UnitInventory:
    """Silence and phones in order of their spelling; with all positions in a word if ``style`` has them.

    >>> phone_inventory("cs", ["p"], "position_stress").symbols
    ('SIL', 'p_B', 'p_E', 'p_I', 'p_S')
    """
    check_style(style)
    symbols = sorted(phones)
    if style == "position_stress":
        symbols = [f"{phone}_{position}" for phone in symbols for position in POSITIONS]
    return UnitInventory("phoneme", language, FRAME_RATE, (SILENCE, *symbols), silence=SILENCE)


def phone_units(phones: Sequence[str], style: str) -> list[str]:
    """The units of one word; the style ``plain`` leaves its phones as they are."""
    return list(phones) if style == "plain" else word_units(phones, style)

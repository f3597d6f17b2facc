"""Sentences to units: silences as the paper has them, and nothing unknown passes silently."""

import re

import numpy as np
import pytest

from nemo_speechlm.errors import InputError
from nemo_speechlm.tokenizers.english_text import PhonemeTextTokenizer
from nemo_speechlm.tokenizers.text import LineGenerators, line_rng


@pytest.fixture(scope="module")
def tokenizer() -> PhonemeTextTokenizer:
    return PhonemeTextTokenizer(seed=3)


def test_units_by_hand():
    tokenizer = PhonemeTextTokenizer(silence_probability=0)
    assert " ".join(tokenizer.units("a cat")) == "SIL AH0_S K_B AE1_I T_E SIL"
    tokenizer = PhonemeTextTokenizer("plain", silence_probability=1)
    assert " ".join(tokenizer.units("a cat sat")) == "SIL AH SIL K AE T SIL S AE T SIL"


def test_silences_come_between_words_with_their_probability(tokenizer: PhonemeTextTokenizer):
    words = 4001
    units = tokenizer.units(" ".join(["cat"] * words), np.random.default_rng(0))
    assert units[0] == units[-1] == "SIL"
    inner = units[1:-1]
    silences = inner.count("SIL")
    assert len(inner) == 3 * words + silences
    assert abs(silences / (words - 1) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / words)
    for i, unit in enumerate(inner):
        if unit == "SIL":
            assert (inner[i - 1], inner[i + 1]) == ("T_E", "K_B")


def test_a_line_decides_its_silences(tokenizer: PhonemeTextTokenizer):
    text = "the quick brown fox jumps over the lazy dog"
    again = PhonemeTextTokenizer(seed=3)
    for number in (9, 1, 2):
        assert tokenizer.units(text, tokenizer.line_rng(number)) == again.units(text, again.line_rng(number))
    lines = {tokenizer.unit_string(text, tokenizer.line_rng(number)) for number in range(20)}
    assert len(lines) > 10
    other = PhonemeTextTokenizer(seed=4)
    assert {other.unit_string(text, other.line_rng(number)) for number in range(20)} != lines


def test_punctuation_is_not_spoken(tokenizer: PhonemeTextTokenizer):
    rng = np.random.default_rng
    assert tokenizer.units("a -- cat !", rng(0)) == tokenizer.units("a cat", rng(0))


@pytest.mark.parametrize("unknown", ["g2p", "spn", "error"])
def test_punctuation_makes_no_word_unknown(unknown: str):
    tokenizer = PhonemeTextTokenizer(unknown=unknown, silence_probability=0)
    assert tokenizer.unit_string("One, said: \u201cno\u201d?") == tokenizer.unit_string("one said no")


@pytest.mark.parametrize("text", ["", "  ", "-- !", "\u043f\u0440\u0438\u0432\u0435\u0442", "12"])
@pytest.mark.parametrize("unknown", ["g2p", "spn", "error"])
def test_text_with_no_known_word(text: str, unknown: str):
    with pytest.raises(InputError, match=r"no word that can be|no English letter|digits|not in the lexicon"):
        PhonemeTextTokenizer(unknown=unknown).units(text)


def test_unknown_words():
    text = "the snagsby's cat"
    assert "DH_B AH0_E S_B N_I AE1_I G_I Z_I IY0_I Z_E K_B" in PhonemeTextTokenizer(silence_probability=0).unit_string(
        text
    )
    units = PhonemeTextTokenizer(unknown="spn", silence_probability=0).unit_string(text)
    assert units == "SIL DH_B AH0_E SPN_S K_B AE1_I T_E SIL"
    with pytest.raises(InputError, match='"snagsby\'s" is not in the lexicon'):
        PhonemeTextTokenizer(unknown="error").units(text)
    with pytest.raises(InputError, match="no word that can be pronounced"):
        PhonemeTextTokenizer(unknown="spn").units("snagsby snagsby's")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style": "phones"}, "no phoneme style 'phones'"),
        ({"unknown": "guess"}, "unknown is 'guess'"),
        ({"unknown": "spn", "style": "plain"}, "needs style=position_stress"),
        ({"silence_probability": 1.5}, "from 0 to 1"),
    ],
)
def test_options(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        PhonemeTextTokenizer(**options)


def test_lines_share_a_generator_and_have_numbers_of_their_own():
    generators = LineGenerators(5, [7, 8, 7])
    drawn = [generators[place].random(50).tolist() for place in range(3)]
    assert len(generators) == 3
    assert drawn[0] == drawn[2] == line_rng(5, 7).random(50).tolist()
    assert not set(drawn[0]) & set(drawn[1])
    assert not set(drawn[0]) & set(line_rng(6, 7).random(50).tolist())
    first = generators[0]
    first.integers(2, dtype=np.int8)  # what is left of a 64-bit number does not pass to the next line
    assert generators[1].random(50).tolist() == drawn[1]


@pytest.mark.parametrize("unknown", ["g2p", "spn", "error"])
def test_a_batch_is_its_sentences(unknown: str):
    """Words are looked up together; what is said of a bad sentence is said of that one."""
    texts = ["the snagsby's cat", "12", "jarndyce and jarndyce", "-- !", "a cat", "zzyx o'snagsby", "\u043f\u0440"]
    together = PhonemeTextTokenizer(unknown=unknown).tokenize_batch(texts, LineGenerators(5, range(1, 8)))
    assert sum(isinstance(found, InputError) for found in together) >= 3
    for number, (text, found) in enumerate(zip(texts, together, strict=True), start=1):
        alone = PhonemeTextTokenizer(unknown=unknown)
        if isinstance(found, InputError):
            with pytest.raises(InputError, match=re.escape(found.reason)):
                alone.tokenize(text, line_rng(5, number))
        else:
            assert found == alone.tokenize(text, line_rng(5, number))

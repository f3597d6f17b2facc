"""Sentences of a language in words."""

import pytest
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.text.cleaning import SentenceCleaner
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.data.text.language import Language
from nemo_speechlm.errors import InputError


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        ("en", "Don\u2019t go, it\u00b4s O`Brien\u02bcs 'house'", ["don't", "go", "it's", "o'brien's", "house"]),
        ("ru", "Кто\u2011то, кто\u2010то и кто-то \u2011", ["кто-то", "кто-то", "и", "кто-то"]),
        ("de", "gibt\u2019s O\u2010Ton", ["gibt", "s", "o", "ton"]),  # neither is in its alphabet
    ],
)
def test_apostrophes_and_hyphens_are_those_of_the_alphabet(code: str, text: str, words: list[str]):
    values = OmegaConf.to_container(OmegaConf.load(CONF / "language" / f"{code}.yaml"))
    assert Language.of(values).sentence_words(text) == words


def test_an_apostrophe_that_is_a_letter_stays():
    assert Language("uk", "uk", " обєкт\u02bc").sentence_words("Об\u02bcєкт") == ["об\u02bcєкт"]


@pytest.mark.parametrize("apostrophe", ["'", "\u2019", "\u02bc"])
def test_apostrophes_are_written_as_the_alphabet_has_them(apostrophe: str):
    ukrainian = Language("uk", "uk", f" п{apostrophe}ять")
    cleaner = SentenceCleaner(TextCleaning(characters=ukrainian.characters))
    for written in "'\u2019\u02bc":
        assert ukrainian.sentence_words(f"П{written}ять") == [f"п{apostrophe}ять"]
        assert cleaner.clean(f"П{written}ять!") == f"п{apostrophe}ять"


def test_what_is_invisible_parts_no_words():
    russian = Language("ru", "ru", " авдзикмнлортья-")
    assert russian.sentence_words("мо\u00adлоко за\u0301мок") == ["молоко", "замок"]


def test_turkish_has_two_letters_i():
    turkish = Language("tr", "tr", " abcçdefgğhıijklmnoöprsştuüvyz")
    cleaner = SentenceCleaner(TextCleaning(characters=turkish.characters))
    assert cleaner.clean("IŞIK KIRMIZI İstanbul") == "ışık kırmızı istanbul"
    assert turkish.sentence_words("IŞIK İstanbul") == ["ışık", "istanbul"]
    upper = SentenceCleaner(TextCleaning(characters=" ABCIİLSTNU", case="upper"))
    assert upper.clean("ılı istanbul") == "ILI İSTANBUL"


@pytest.mark.parametrize(
    ("characters", "message"),
    [
        (
            " \u0958\u0915",
            r"has '\u0958' \(U\+0958\), which texts have as .* \(U\+0915 U\+093C\) after Unicode's NFKC",
        ),
        (" abo\u0300", r"has letters that are composed of two characters"),
    ],
)
def test_letters_are_those_of_normalized_text(characters: str, message: str):
    with pytest.raises(InputError, match=message):
        Language("xx", "xx", characters)
    with pytest.raises(InputError, match=message):
        TextCleaning(characters=characters)

"""Sentences of a language in words."""

import pytest
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.text.language import Language


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

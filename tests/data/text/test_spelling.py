"""Letters without their accents, put back as transcripts have them."""

import json

import pytest

from nemo_speechlm.data.text.cleaning import SentenceCleaner
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.data.text.spelling import spellings_of
from nemo_speechlm.errors import InputError, SpeechLMError

RUSSIAN = TextCleaning(characters=" абвгдеёжзийклмнопрстуфхцчшщъыьэюя-")


@pytest.fixture
def transcripts(tmp_path):
    path = tmp_path / "train.json"
    texts = ["Ещё не всё, мой ёж!", "все мои дети", "ещё 7 раз пошёл", "её"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_words_that_transcripts_have_with_the_letter_alone(transcripts):
    found = spellings_of([transcripts], "ё", RUSSIAN)
    assert list(found) == [("ее", "её"), ("еж", "ёж"), ("еще", "ещё")], "все is a word, too; digits: left out"
    cleaner = SentenceCleaner(TextCleaning(characters=RUSSIAN.characters, spellings=found))
    assert cleaner.clean("Еще мои все: ее «еж» ёж, ежа") == "ещё мои все её ёж ёж ежа"


def test_capital_letters(transcripts):
    upper = TextCleaning(characters=RUSSIAN.characters.upper(), case="upper")
    assert spellings_of([transcripts], "ё", upper) == (("ЕЕ", "ЕЁ"), ("ЕЖ", "ЁЖ"), ("ЕЩЕ", "ЕЩЁ"))


def test_without_such_letters(transcripts):
    with pytest.raises(SpeechLMError, match=r"for languages with optional letters \(language\.optional\)"):
        spellings_of([transcripts], "", RUSSIAN)
    with pytest.raises(SpeechLMError, match=r"spelled_as: no word of .*train\.json has ґ"):
        spellings_of([transcripts], "ґ", RUSSIAN)
    transcripts.write_text('{"texts": "ё"}\n')
    with pytest.raises(InputError, match=r"train\.json:1: no key 'text'"):
        spellings_of([transcripts], "ё", RUSSIAN)

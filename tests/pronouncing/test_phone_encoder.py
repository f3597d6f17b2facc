"""Texts as ids of phones."""

import pytest

from nemo_speechlm.errors import InputError
from nemo_speechlm.pronouncing.phone_encoder import PhoneEncoder
from nemo_speechlm.testing.corpora import russian

EN = {"code": "en", "voice": "en-us", "characters": " abcdefghijklmnopqrstuvwxyz'"}
RU = {field: getattr(russian(), field) for field in ("code", "voice", "characters", "stress", "foreign", "words")}


def spelled(encoder, text):
    return " ".join(encoder.symbols[phone] for phone in encoder(text))


def test_english():
    encoder = PhoneEncoder(EN)
    assert len(encoder.symbols) == 40
    assert spelled(encoder, "The cat's here , hi") == "SIL DH AH K AE T S HH IY R HH AY SIL"
    assert spelled(PhoneEncoder(EN, silence=False), "cat") == "K AE T"
    assert len(PhoneEncoder(EN, silence=False).symbols) == 39


def test_a_lexicon_replaces_pronunciations(tmp_path):
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("cat D AO1 G\n", encoding="utf-8")
    assert spelled(PhoneEncoder(EN, lexicon=lexicon), "cat") == "SIL D AO G SIL"


def test_russian_learns_its_phones():
    encoder = PhoneEncoder(RU)
    assert encoder.symbols == []
    encoder.learn(["мама мыла раму"])
    assert encoder.symbols[0] == "SIL"
    again = PhoneEncoder(RU, symbols=encoder.symbols)
    assert spelled(again, "Мама!") == spelled(encoder, "мама")
    with pytest.raises(InputError, match=r"t\.json:3: 'щука' is pronounced with .* not among the"):
        again("щука", "t.json", 3)


@pytest.mark.parametrize(
    ("text", "message"), [("", "no word"), ("--- !", "no word"), ("in 1999", "'1999' has digits")]
)
def test_texts_that_cannot_be_spoken(text, message):
    with pytest.raises(InputError, match=rf"t\.json:7: .*{message}"):
        PhoneEncoder(EN)(text, "t.json", 7)


def test_a_source_that_does_not_fit():
    with pytest.raises(InputError, match=r"model\.phones\.source is cmudict, and language.code 'ru'"):
        PhoneEncoder(RU, source="cmudict")
    with pytest.raises(InputError, match=r"model\.phones\.source is 'kaldi', expected cmudict or espeak"):
        PhoneEncoder(EN, source="kaldi")

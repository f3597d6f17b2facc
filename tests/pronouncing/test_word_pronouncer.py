import pytest

from nemo_speechlm.data.text.language import Language
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.pronouncing.lexicons import read_any_lexicon
from nemo_speechlm.pronouncing.word_pronouncer import Pronouncing, WordPronouncer
from nemo_speechlm.units.phones import phoneme_inventory


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_any_lexicon(tmp_path):
    path = write(tmp_path / "l.txt", "Mama\tm a m a\nдом  d o m\nдом(2) d o m h\n\nдом d o m\n")
    assert read_any_lexicon(path) == {
        "mama": [("m", "a", "m", "a")],
        "дом": [("d", "o", "m"), ("d", "o", "m", "h")],
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\nword\n", r"l\.txt:2: expected a word and its phones, found 'word' alone"),
        ("a SIL b\n", r"l\.txt:1: SIL is a phone of 'a'"),
        ("\n", "no words in it"),
    ],
)
def test_bad_lexicons(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_any_lexicon(write(tmp_path / "l.txt", text))


def test_english():
    how = Pronouncing()
    assert how.inventory == phoneme_inventory()
    assert len(how.acoustic_phones) == 41  # 39, silence and spoken noise
    pronouncer = WordPronouncer(how)
    assert pronouncer.variants("hello") == [
        [("HH_B", "HH"), ("AH0_I", "AH"), ("L_I", "L"), ("OW1_E", "OW")],
        [("HH_B", "HH"), ("EH0_I", "EH"), ("L_I", "L"), ("OW1_E", "OW")],
    ]
    # "to" has the pronunciations T UW1, T IH0, T AH0: each another sound
    assert [[phone for _, phone in v] for v in pronouncer.variants("to")] == [["T", "UW"], ["T", "IH"], ["T", "AH"]]
    assert pronouncer.words("Don't -- stop!") == ["don't", "stop"]
    assert pronouncer.unknown(["hello", "zxqw", "r2d2", "r2d2"]) == ["r2d2"]
    with pytest.raises(SkipItem):
        pronouncer.words("1999")


def test_variants_that_sound_alike_are_one(tmp_path):
    lexicon = write(tmp_path / "l.txt", "foo F UW1\nfoo F UW0\nfoo F OW1\nbar B AA1 R\n")
    pronouncer = WordPronouncer(Pronouncing.read(lexicon, style="plain"))
    assert pronouncer.variants("foo") == [[("F", "F"), ("UW", "UW")], [("F", "F"), ("OW", "OW")]]
    assert pronouncer.variants("hello")[0][0] == ("HH", "HH")  # CMUdict still has the others
    assert len(WordPronouncer(Pronouncing.read(lexicon, max_variants=1)).variants("foo")) == 1


def test_a_language_of_a_lexicon_alone(tmp_path):
    lexicon = write(tmp_path / "l.txt", "дом d o1 m\nи i\n")
    how = Pronouncing.read(lexicon, language="ru", phonemizer=None)
    pronouncer = WordPronouncer(how)
    assert pronouncer.words("Дом -- «и» дом-и 5!") == ["дом", "и", "дом", "и", "5"]
    assert pronouncer.variants("дом") == [[("d_B", "d"), ("o1_I", "o1"), ("m_E", "m")]]
    assert pronouncer.variants("и") == [[("i_S", "i")]]
    assert how.inventory.symbols[:5] == ("SIL", "d_B", "d_E", "d_I", "d_S")
    assert how.acoustic_phones == ("SIL", "d", "i", "m", "o1")
    plain = Pronouncing.read(lexicon, language="ru", phonemizer=None, style="plain")
    assert WordPronouncer(plain).variants("дом") == [[("d", "d"), ("o1", "o1"), ("m", "m")]]
    with pytest.raises(InputError, match="'кот' is not in the lexicon"):
        pronouncer.variants("кот")


@pytest.mark.parametrize(
    ("characters", "text", "words"),
    [
        (" bdeiltuš", "Bude-li dešt—bude‐li?", ["bude", "li", "dešt", "bude", "li"]),
        (" bdeiltuš-", "Bude-li bude‑li - dešt", ["bude-li", "bude-li", "dešt"]),
        (" 'п'ятьо", "П’ять, «пʼять» 'о'", ["п'ять", "п'ять", "о"]),
        (" ʼпять", "пʼять", ["пʼять"]),
    ],
)
def test_words_are_those_of_the_lexicon_of_a_language(characters, text, words):
    language = Language("cs", "cs", characters)
    assert language.sentence_words(text) == words
    how = Pronouncing(language="cs", phonemizer=None, lexicon={word: [("x",)] for word in words})
    assert WordPronouncer(how).words(text) == words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phonemizer": None}, "nothing says how words are pronounced"),
        ({"language": "ru"}, "phonemizer is 'english', but language is 'ru'"),
        ({"phonemizer": "other"}, "expected english or null"),
        ({"style": "odd"}, "no phoneme style 'odd'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Pronouncing.read(None, **settings)


def test_words_with_an_apostrophe_at_an_edge():
    """They stand without it in a lexicon that make_lexicon.py has made."""
    lexicon = {"tis": [("t", "ɪ", "z")], "boys": [("b", "ɔɪ", "z")], "o'er": [("ɔː",)]}
    pronouncer = WordPronouncer(Pronouncing(phonemizer=None, lexicon=lexicon, style="plain"))
    words = pronouncer.words("'Tis the boys' o'er")
    assert words == ["'tis", "the", "boys'", "o'er"]
    assert pronouncer.unknown(words) == ["the"]

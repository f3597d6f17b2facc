"""Pronunciations of other languages, their inventories, and text to their units."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.text.language import Language
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.pronouncing.espeak import EspeakPhonemizer
from nemo_speechlm.pronouncing.phonemizer import Phonemizer
from nemo_speechlm.testing.corpora import russian
from nemo_speechlm.tokenizers.espeak_text import EspeakTokenizing
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import phone_inventory

pytest.importorskip("espeakng_loader")
pytest.importorskip("phonemizer")

RNG = np.random.default_rng
LANGUAGES = sorted(path.stem for path in (CONF / "language").glob("*.yaml"))


def language(code: str, **changes) -> Language:
    values = OmegaConf.to_container(OmegaConf.load(CONF / "language" / f"{code}.yaml"))
    return Language.of({**values, **changes})


@pytest.fixture(scope="module")
def inventory() -> UnitInventory:
    return EspeakPhonemizer(russian()).inventory("position_stress", "мама молоко в доме не он река шла".split())


def test_words_of_russian():
    phonemizer = EspeakPhonemizer(russian())
    assert phonemizer.pronunciations("мама") == [("m", "ˈɑ", "m", "a")]
    assert phonemizer.pronunciations("в") == [("v",), ("f",)]  # espeak-ng alone would spell it
    assert phonemizer.sentence("мама в доме") == [("m", "ˈɑ", "m", "a"), ("v",), ("d", "ˈo", "mʲ", "i")]
    without = EspeakPhonemizer(language("ru", stress=False, words={}))
    assert without.pronunciations("мама") == [("m", "ɑ", "m", "a")]
    own = EspeakPhonemizer(russian(), {"мама": [("p",)]})
    assert own.pronunciations("мама") == [("p",)]


def test_own_words_are_found_however_they_are_written():
    own = language("de", words={"Jeans": ["x"], "fu\u0308r": ["y"]})
    phonemizer = EspeakPhonemizer(own)
    assert [phonemizer.pronunciations(word) for word in own.sentence_words("Jeans für")] == [[("x",)], [("y",)]]
    with pytest.raises(InputError, match=r"language\.words: True is no word; write words such as on and no in quotes"):
        language("de", **OmegaConf.to_container(OmegaConf.create("words: {on: [o n]}")))


def test_many_words_at_once_are_pronounced_as_each_alone():
    words = "молоко подъезд ёлка съёмка жизнь кто-то цапля щука нью-йорк ссср".split()
    together, alone = EspeakPhonemizer(russian()), EspeakPhonemizer(russian())
    together.prepare([*words, *words])
    assert [together.pronunciations(w) for w in words] == [alone.pronunciations(w) for w in reversed(words)][::-1]
    assert all(phone.strip() == phone != "" for w in words for phone in together.pronunciations(w)[0])


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_of_conf_has_a_voice_and_a_consistent_alphabet(code: str):
    own = language(code)
    assert own.code == code
    letters = [c for c in own.characters if c.isalpha()]
    assert len(set(own.characters)) == len(own.characters)
    phonemizer = EspeakPhonemizer(own)
    phonemizer.prepare(letters)
    phones = {phone for letter in letters for phone in phonemizer.pronunciations(letter)[0]}
    assert len(phones) > 10
    known = {phone for phones in phonemizer._known.values() for variant in phones for phone in variant}
    assert not any(set(" _") & set(phone) for phone in known)
    assert any(phone[0] in "ˈˌ" for phone in phones) == own.stress


def test_both_phonemizers_are_behind_one_interface():
    for phonemizer, word, units in (
        (EnglishPhonemizer(), "cat", 346),
        (EspeakPhonemizer(russian()), "кот", 1 + 3 * 4),
    ):
        assert isinstance(phonemizer, Phonemizer)
        assert len(phonemizer.sentence(word)) == 1
        assert len(phonemizer.inventory("position_stress", [word])) == units
        assert phonemizer.inventory("plain", [word]).language == phonemizer.language


def test_inventory_has_all_positions(inventory: UnitInventory):
    assert inventory.symbols[0] == inventory.silence == "SIL"
    phones = {symbol.rsplit("_", 1)[0] for symbol in inventory.symbols[1:]}
    assert {"m", "ˈɑ", "mʲ", "nʲ"} <= phones
    assert len(inventory) == 1 + 4 * len(phones)
    assert phone_inventory("ru", ["b", "a"], "plain").symbols == ("SIL", "a", "b")


def test_sentences_by_hand(inventory: UnitInventory):
    tokenizer = EspeakTokenizing(russian(), silence_probability=0).make(inventory)
    assert tokenizer.tokenize("В доме — мама.", RNG(0)).units == "SIL v_S d_B ˈo_I mʲ_I i_E m_B ˈɑ_I m_I a_E SIL"
    tokenizer = EspeakTokenizing(russian(), "plain", 1).make(
        phone_inventory("ru", "v d ˈo mʲ i m ˈɑ a".split(), "plain")
    )
    assert tokenizer.tokenize("в доме мама", RNG(0)).units == "SIL v SIL d ˈo mʲ i SIL m ˈɑ m a SIL"


@pytest.mark.parametrize(
    ("text", "reason"), [("мама hello", "letters outside"), ("мама 12", "digits"), ("...", "no word")]
)
def test_foreign_words_leave_the_line_out(inventory: UnitInventory, text: str, reason: str):
    tokenizer = EspeakTokenizing(russian()).make(inventory)
    with pytest.raises(SkipItem, match=reason):
        tokenizer.tokenize(text, RNG(0))
    good, bad = tokenizer.tokenize_batch(["мама", text], [RNG(0), RNG(0)])
    assert good == tokenizer.tokenize("мама", RNG(0))
    assert isinstance(bad, SkipItem)


def test_foreign_words_are_dropped_or_read(inventory: UnitInventory):
    dropping = EspeakTokenizing(language("ru", foreign="drop_word"), silence_probability=0).make(inventory)
    made = dropping.tokenize("мама hello, 12 он", RNG(0))
    assert made.units == dropping.tokenize("мама он", RNG(0)).units
    assert made.extra == {"text": "мама он", "dropped_words": 2}
    reader = language("ru", foreign="espeak")
    read = EspeakPhonemizer(reader).inventory("position_stress", ["hello", "двенадцать", "он", "12"])
    units = EspeakTokenizing(reader).make(read).tokenize("он hello 12", RNG(0)).units.split()
    assert len(units) > 15


def test_phones_outside_the_inventory(inventory: UnitInventory):
    with pytest.raises(SkipItem, match="not among the units"):
        EspeakTokenizing(russian()).make(inventory).tokenize("щука", RNG(0))
    with pytest.raises(InputError, match="'щука' cannot be pronounced, or"):
        EspeakTokenizing(russian(), unknown="error").make(inventory).tokenize("щука", RNG(0))
    dropped = EspeakTokenizing(russian(), unknown="drop_word").make(inventory).tokenize("мама щука", RNG(0))
    assert dropped.extra == {"text": "мама", "dropped_words": 1}


def test_what_does_not_fit(tmp_path: Path, inventory: UnitInventory):
    how = EspeakTokenizing(russian())
    with pytest.raises(InputError, match="make_lexicon"):
        how.inventory()
    for other, message in (
        (UnitInventory("hidden", "ru", 50, ("0",)), "hidden units"),
        (UnitInventory("phoneme", "en", 100, ("SIL", "a_B"), "SIL"), "language 'en'"),
        (phone_inventory("ru", ["a"], "plain"), "style is 'position_stress'"),
        (UnitInventory("phoneme", "ru", 100, ("a_B",)), "no silence"),
    ):
        with pytest.raises(InputError, match=message):
            how.check(other, tmp_path / "units.json")
    how.check(inventory, "units.json")
    with pytest.raises(InputError, match="voice is 'xx'"):
        EspeakPhonemizer(language("ru", voice="xx")).pronunciations("мама")
    with pytest.raises(InputError, match=r"language: .*'colour'"):
        Language.of({"code": "ru", "voice": "ru", "characters": " а", "colour": 1})
    for changes, message in (
        ({"foreign": "keep"}, r"language\.foreign is 'keep'"),
        ({"characters": " АБВ"}, r"language\.characters"),
        ({"words": {"в": "v"}}, r"language\.words\.в"),
    ):
        with pytest.raises(InputError, match=message):
            language("ru", **changes)

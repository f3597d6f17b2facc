"""What becomes of sentences that are not yet a lower-case alphabet."""

import json
import re
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.data.manifests.sentences import is_json_lines
from nemo_speechlm.data.text.cleaning import SentenceCleaner, lost_accents, make_cleaning_work
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.data.text.held_out import place_sentences
from nemo_speechlm.data.text.normalizer import check_normalizer
from nemo_speechlm.errors import InputError, SkipItem, SpeechLMError

CLEANER = SentenceCleaner(TextCleaning())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  World!\n", "hello world"),
        ("\u201cDon\u2019t,\u201d he said\u2014softly\u2026", "don't he said softly"),
        ("well-known _emphasis_ and/or", "well known emphasis and or"),
        ("na\u00efve caf\u00e9 \u00c6sop stra\u00dfe \u00d8re", "naive cafe aesop strasse ore"),
        ("cafe\u0301", "cafe"),  # the accent as a character of its own
        ("\ufb01ne \uff21\uff22", "fine ab"),  # ligature, full width
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("'tis the boys' dancin' day", "'tis the boys' dancin' day"),
        ("he said 'yes' and 'no, never'", "he said yes and no never"),
        ("' ' a '", "a"),
        ("tab\tand\u00a0no-break", "tab and no break"),
        ("nul\0 in it", "nul in it"),
        ("Don\u00b4t, don`t, don\uff07t", "don't don't don't"),  # NFKC makes a space of the first
        ("well\u2010known\u2011to", "well known to"),
        ("a\u0149", "a'n"),
    ],
)
def test_sentences(text: str, expected: str):
    assert CLEANER.clean(text) == expected
    assert CLEANER.clean(expected) == expected


@given(st.text(max_size=60))
def test_what_is_kept_is_in_the_alphabet(text: str):
    for other in ("skip_line", "drop_word", "drop"):
        try:
            clean = SentenceCleaner(TextCleaning(other_characters=other)).clean(text)  # type: ignore[arg-type]
        except SkipItem:
            continue
        assert set(clean) <= set(" abcdefghijklmnopqrstuvwxyz'")
        assert clean == " ".join(clean.split()) != ""


@pytest.mark.parametrize(
    ("other", "expected"), [("drop_word", "on the of may"), ("drop", "on the th of may"), ("skip_line", None)]
)
def test_other_characters(other: str, expected: str | None):
    cleaner = SentenceCleaner(TextCleaning(other_characters=other))  # type: ignore[arg-type]
    if expected is None:
        with pytest.raises(SkipItem, match=r"^digits \(normalizer=nemo"):
            cleaner.clean("on the 12th of May")
        with pytest.raises(SkipItem, match="letters outside characters: '\u0436'"):
            cleaner.clean("12 and \u0416")
    else:
        assert cleaner.clean("on the 12th of May") == expected


def test_other_alphabets():
    upper = SentenceCleaner(TextCleaning(characters=" ABCDEFGHIJKLMNOPQRSTUVWXYZ", case="upper"))
    assert upper.clean("Don't na\u00efve") == "DONT NAIVE"
    german = SentenceCleaner(TextCleaning(characters=" abcdefghijklmnopqrstuvwxyz\u00e4\u00f6\u00fc\u00df"))
    assert german.clean("Gr\u00f6\u00dfe, \u00e9tude") == "gr\u00f6\u00dfe etude"
    czech = SentenceCleaner(TextCleaning(characters=" abcABC-", case="keep"))
    assert czech.clean("Ab-C, a") == "Ab-C a"
    russian = SentenceCleaner(TextCleaning(characters=" кто-"))
    assert russian.clean("Кто\u2011то кто\u2010то \u2010 то\u2011") == "кто-то кто-то то"
    ukrainian = SentenceCleaner(TextCleaning(characters=" обєкт\u02bc"))
    assert ukrainian.clean("об\u02bcєкт") == "об\u02bcєкт"  # a letter there
    assert SentenceCleaner(TextCleaning(characters=" dont")).clean("Don\u00b4t") == "dont"


@pytest.mark.parametrize(
    ("limits", "text", "reason"),
    [
        ({"min_words": 3}, "a b", "fewer than min_words=3 words"),
        ({"max_words": 1}, "a b", "more than max_words=1 words"),
        ({"min_characters": 4}, "a b", "fewer than min_characters=4 characters"),
        ({"max_characters": 2}, "a b", "more than max_characters=2 characters"),
        ({}, "?!", "no words"),
    ],
)
def test_lengths(limits: dict, text: str, reason: str):
    with pytest.raises(SkipItem, match=reason):
        SentenceCleaner(TextCleaning(**limits)).clean(text)
    assert SentenceCleaner(TextCleaning(min_words=2, max_words=2, min_characters=3, max_characters=3)).clean("a b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"case": "title"}, "case is 'title', expected one of lower, upper, keep"),
        ({"other_characters": "x"}, "other_characters is 'x'"),
        ({"normalizer": "x"}, "normalizer is 'x'"),
        ({"characters": " '"}, "no letters in it"),
        ({"case": "upper"}, "case=upper makes letters that are not in characters"),
    ],
)
def test_options(options: dict, message: str):
    with pytest.raises(InputError, match=message):
        TextCleaning(**options)


def test_normalizer_is_asked_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch):
    asked = []

    class Normalizer:
        def __init__(self, **options):
            asked.append(options)

        def normalize(self, text: str, verbose: bool) -> str:
            asked.append(text)
            return text.replace("12", "twelve").replace("Mr.", "mister")

    for name in ("nemo_text_processing", "nemo_text_processing.text_normalization"):
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    module = types.ModuleType("normalize")
    module.Normalizer = Normalizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nemo_text_processing.text_normalization.normalize", module)
    cleaning = TextCleaning(normalizer="nemo")
    check_normalizer(cleaning)
    cleaner = SentenceCleaner(cleaning)
    assert cleaner.clean("Nothing to do.") == "nothing to do"
    assert asked == []
    assert cleaner.clean("Mr. A has 12") == "mister a has twelve"
    assert cleaner.clean("12") == "twelve"
    assert asked == [{"input_case": "cased", "lang": "en", "cache_dir": None}, "Mr. A has 12", "12"]


def test_normalizer_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nemo_speechlm.data.text.normalizer.find_spec", lambda name: None)
    with pytest.raises(SpeechLMError, match="pip install 'nemo_speechlm\\[normalize\\]'"):
        check_normalizer(TextCleaning(normalizer="nemo"))


def test_work_on_text_and_on_json(tmp_path: Path):
    assert make_cleaning_work(TextCleaning(), "s")(1, "Hi.\n") == {"text": "hi"}
    work = make_cleaning_work(TextCleaning(json_lines=True), "s.json")
    assert work(1, json.dumps({"text": "Hi.", "audio_filepath": "a.wav"})) == {"text": "hi"}
    for line, message in [
        ("Hi", "s.json:2: not JSON"),
        ("{}", "no key 'text'"),
        ('{"text": 1}', "s.json:2: 'text' is 1, expected a string"),
    ]:
        with pytest.raises(InputError, match=message):
            work(2, line)
    (tmp_path / "a").write_text('\n {"text": "a"}\n')
    (tmp_path / "b").write_text('hello {"text": "a"}\n')
    assert is_json_lines(tmp_path / "a")
    assert not is_json_lines(tmp_path / "b")


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), st.integers(0, 5), st.booleans())
def test_places(texts: list[str], valid_lines: int, unique: bool):
    """Every sentence is kept once if unique; the held-out ones are as many as asked for and nowhere else."""
    records = [{"text": text} for text in texts]
    valid = Path("valid")
    count = len(set(texts)) if unique else len(texts)

    def place():
        return list(place_sentences(iter(records), unique=unique, valid_lines=valid_lines, valid_output=valid, seed=1))

    if valid_lines and valid_lines >= count:
        with pytest.raises(InputError, match="valid_lines"):
            place()
        return
    places = place()
    assert places == place()
    assert len(places) == len(texts)
    assert places.count(valid) == valid_lines
    assert places.count(None) == count - valid_lines
    if unique:
        kept = [text for text, where in zip(texts, places, strict=True) if where != "a repeated sentence"]
        assert kept == list(dict.fromkeys(texts))


def test_hyphens_stay_inside_words_alone():
    cleaner = SentenceCleaner(TextCleaning(characters=" абвгдеёжзийклмнопрстуфхцчшщъыьэюя-"))
    assert cleaner.clean("Кто-то — он - сказал: «Да-»!") == "кто-то он сказал да"
    assert cleaner.clean("Он пришёл--и ушёл---сам") == "он пришёл и ушёл сам"
    assert SentenceCleaner(TextCleaning()).clean("well-known - so--yes") == "well known so yes"


def test_quotation_marks_are_no_letters_of_an_alphabet_with_another_apostrophe():
    cleaner = SentenceCleaner(TextCleaning(characters=" абвгґдеєжзиіїйклмнопрстуфхцчшщьюяʼ"))
    assert cleaner.clean("п'ять 'слово' ‘добре’") == "пʼять слово добре"


def test_language_that_the_normalizer_lacks():
    with pytest.raises(SpeechLMError, match="does not have this language"):
        check_normalizer(TextCleaning(normalizer="nemo", language=None))


@pytest.mark.skipif(find_spec("nemo_text_processing") is None, reason="needs the extra normalize")
def test_real_normalizer_from_a_cache(tmp_path):
    """Slow: it builds its grammars. A second one must find them."""
    cleaning = TextCleaning(normalizer="nemo", normalizer_cache=str(tmp_path / "cache"))
    check_normalizer(cleaning)
    grammars = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert any(name.endswith(".far") for name in grammars)
    cleaner = SentenceCleaner(cleaning)
    assert cleaner.clean("Mr. Smith paid $5.50 for 12 eggs.") == (
        "mister smith paid five dollars fifty cents for twelve eggs"
    )
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == grammars


def test_a_text_of_another_language_is_told(tmp_path):
    czech, english = "příliš žluťoučký kůň", "a naïve man"
    (tmp_path / "cs.txt").write_text(f"{czech}\n" * 3, encoding="utf-8")
    (tmp_path / "en.txt").write_text("some words of english\n" * 50 + f"{english}\n", encoding="utf-8")
    write_manifest(tmp_path / "cs.json", [{"text": czech}, {"no": "text"}])
    expected = r"cs\.\w+: 50% of the letters lose their accents \(ř, í, .*give language="
    assert re.search(expected, lost_accents(tmp_path / "cs.txt", TextCleaning()) or "")
    assert re.search(expected, lost_accents(tmp_path / "cs.json", TextCleaning(json_lines=True)) or "")
    assert lost_accents(tmp_path / "en.txt", TextCleaning()) is None
    alphabet = " aábcčdďeéěfghiíjklmnňoópqrřsštťuúůvwxyýzž"
    assert lost_accents(tmp_path / "cs.txt", TextCleaning(characters=alphabet)) is None

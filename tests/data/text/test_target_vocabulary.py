"""Texts to tokens and back, and what manifests say of texts and languages."""

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.data.text.target_vocabulary import SPECIAL, CharacterVocabulary, PieceVocabulary, survey_targets
from nemo_speechlm.errors import InputError


@given(st.text(" abcä.", max_size=30), st.booleans())
def test_characters_there_and_back(text, leading_space):
    vocabulary = CharacterVocabulary([" ", *"abcä."], leading_space)
    tidy = " ".join(text.split())
    ids = vocabulary(text)
    assert len(ids) == len(tidy) + (leading_space and bool(tidy))
    assert min(ids, default=4) >= len(SPECIAL)
    assert vocabulary.decode([*ids, 2]) == tidy


def test_unknown_character():
    with pytest.raises(InputError, match=r"m\.json:3: 'x' \(U\+0078\) in 'a x' is not among the 2 characters"):
        CharacterVocabulary([" ", "a"])("a x", "m.json", 3)


def test_bad_labels():
    with pytest.raises(InputError, match="labels is empty"):
        CharacterVocabulary([])
    with pytest.raises(InputError, match="labels has 'a' twice"):
        CharacterVocabulary(["a", "b", "a"])
    assert CharacterVocabulary(["a", "madeupword0000", "<lang:de>"])("aa") == [4, 4]


def test_pieces(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\nthe hat on the cat\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "m"), vocab_size=15, minloglevel=2
    )
    vocabulary = PieceVocabulary(TokenEncoder(tmp_path / "m.model"))
    ids = vocabulary("the cat  on the hat")
    assert min(ids) > 3
    assert len(ids) < len("the cat on the hat")
    assert vocabulary.decode([2, *ids, 2, 1]) == "the cat on the hat"


def lines(path, *records):
    write_manifest(path, records)
    return str(path)


def test_survey(tmp_path):
    one = lines(tmp_path / "1.json", {"text": "Ba b\u00a0c", "source_lang": "cs", "target_lang": "en"}, {"text": "ž"})
    two = lines(tmp_path / "2.json", {"text": "a", "source_lang": "cs"})
    survey = survey_targets([one, two])
    assert survey.characters == [" ", "B", "a", "b", "c", "ž"]
    assert (survey.source_lang, survey.target_lang) == ("cs", "en")


def test_survey_of_what_cannot_be_used(tmp_path):
    mixed = lines(tmp_path / "m.json", {"text": "a", "target_lang": "en"}, {"text": "b", "target_lang": "de"})
    with pytest.raises(InputError, match=r"m\.json:2: 'target_lang' is 'de', 'en' before"):
        survey_targets(mixed)
    with pytest.raises(InputError, match=r"n\.json:1: 'text' is 3, expected a string"):
        survey_targets(lines(tmp_path / "n.json", {"text": 3}))
    bad = lines(tmp_path / "b.json", {"text": "a"}, {"duration": 1.0}, {"text": "b"})
    with pytest.raises(InputError, match=r"b\.json:2: .*text"):
        survey_targets(bad)
    assert survey_targets(bad, skip_bad=True).characters == [" ", "a", "b"]
    with pytest.raises(InputError, match="there is no text"):
        survey_targets(lines(tmp_path / "e.json", {"text": " "}))

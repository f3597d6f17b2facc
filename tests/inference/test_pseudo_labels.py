"""Which utterances become training data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.pseudo_labels import summary
from nemo_speechlm.inference.pseudo_labels import PseudoLabel, chosen, read_speech

LABELS = [
    PseudoLabel({"text": "a b"}, 10.0, "a b", 0.9),
    PseudoLabel({"text": "c d"}, 20.0, "c x", 0.5),
    PseudoLabel({}, 30.0, "", 0.0),
    PseudoLabel({}, 40.0, "e", 0.7),
]


def test_by_score():
    assert chosen(LABELS) == [True, True, False, True]
    assert chosen(LABELS, min_score=0.7) == [True, False, False, True]


def test_by_hours():
    assert chosen(LABELS, keep=0.5) == [True, False, False, True]
    assert chosen(LABELS, keep=0.3) == [True, True, False, False]  # the second surest is too long
    assert chosen(LABELS, keep=1.0) == [True, True, False, True]


@given(
    st.lists(st.tuples(st.floats(0.1, 50), st.floats(0, 1)), min_size=1, max_size=30),
    st.floats(0.01, 1, exclude_min=True),
)
def test_never_more_than_the_share(rows, keep):
    labels = [PseudoLabel({}, seconds, "w", score) for seconds, score in rows]
    kept = chosen(labels, keep=keep)
    hours = sum(label.duration for label, good in zip(labels, kept, strict=True) if good)
    assert hours <= keep * sum(label.duration for label in labels) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_score": 0.5, "keep": 0.5}, "min_score and keep are both given"),
        ({"min_score": 2}, "min_score is 2"),
        ({"keep": 0}, "keep is 0, expected a number"),
        ({"keep": "half"}, "keep is 'half'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(SpeechLMError, match=message):
        chosen([], **options)


def test_lines_and_summary():
    assert LABELS[1].line() == {"text": "c x", "reference": "c d", "score": 0.5}
    assert LABELS[3].line() == {"text": "e", "score": 0.7}
    lines = summary(LABELS, [True, False, False, True]).splitlines()
    assert lines[0] == "kept: 2 of 4 utterances, 0.01 h, scores 0.700 to 0.900, WER 0.0% of the 1 with a transcript"
    assert lines[1].endswith("scores 0.000 to 0.500, WER 50.0% of the 1 with a transcript")
    with pytest.raises(InputError, match=r"none of 4 utterances is kept; the highest score is 0\.900"):
        summary(LABELS, [False] * 4)


def test_a_second_round_keeps_the_true_transcript():
    first = PseudoLabel({"text": "a b"}, 10.0, "a x", 0.5)
    second = PseudoLabel(first.line(), 10.0, "a b", 0.9)
    assert second.line() == {"text": "a b", "reference": "a b", "score": 0.9}
    assert "WER 0.0%" in summary([second], [True])


def test_an_empty_manifest(tmp_path):
    (tmp_path / "none.json").write_text("")
    with pytest.raises(InputError, match=r"none\.json"):
        read_speech(tmp_path / "none.json")

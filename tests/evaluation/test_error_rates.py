from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.evaluation.error_rates import ErrorCounts, character_errors, count_errors, word_errors

tokens = st.lists(st.sampled_from("abcd"), max_size=8)


def plain_distance(reference, hypothesis):
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, start=1):
        above, row[0] = row[0], i
        for j, found in enumerate(hypothesis, start=1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (expected != found))
    return row[-1]


@given(tokens, tokens)
def test_counts_are_a_cheapest_alignment(reference, hypothesis):
    counts = count_errors(reference, hypothesis)
    assert counts.errors == plain_distance(reference, hypothesis)
    assert counts.length == len(reference)
    assert counts.insertions - counts.deletions == len(hypothesis) - len(reference)
    assert counts.substitutions + counts.deletions <= len(reference)


def test_kinds_of_errors():
    assert word_errors("the cat sat", "a cat sat down") == ErrorCounts(1, 1, 0, 3)
    assert word_errors("the cat sat", "cat sat") == ErrorCounts(0, 0, 1, 3)
    assert character_errors("ab  cd ", "ab cd") == ErrorCounts(0, 0, 0, 5)


def test_empty_references():
    assert word_errors("", "").rate is None
    assert word_errors("", "noise here").rate is None
    assert (word_errors("", "noise here") + word_errors("a b c d", "a b c d")).rate == 0.5
    assert word_errors("a b", "").rate == 1.0


@pytest.mark.parametrize("count", [word_errors, character_errors])
def test_composed_and_decomposed_letters_are_equal(count):
    texts = [normalize(form, "мой ёж") for form in ("NFD", "NFC")]
    assert count(*texts).errors == count(*texts[::-1]).errors == 0
    assert count(*texts).length == count(texts[1], texts[1]).length

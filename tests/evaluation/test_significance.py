import numpy as np
import pytest

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.evaluation.significance import compare, confidence_interval, groups_drawn


def drawn(rate, utterances, seed, words=10):
    rng = np.random.default_rng(seed)
    return [ErrorCounts(int(errors), 0, 0, words) for errors in rng.binomial(words, rate, utterances)]


def test_interval_is_that_of_the_normal_approximation():
    counts = drawn(0.3, 400, 0)
    errors = np.array([c.errors for c in counts]) / 10
    interval = confidence_interval(counts, draws=4000)
    spread = 1.96 * errors.std() / 20
    assert interval.low == pytest.approx(errors.mean() - spread, abs=0.1 * spread)
    assert interval.high == pytest.approx(errors.mean() + spread, abs=0.1 * spread)
    assert confidence_interval(counts, draws=4000) == interval


def test_groups_are_drawn_as_a_whole():
    counts = [ErrorCounts(0 if i < 100 else 10, 0, 0, 10) for i in range(200)]
    alone, together = (confidence_interval(counts, groups) for groups in (None, [i // 100 for i in range(200)]))
    assert (together.low, together.high) == (0.0, 1.0)
    assert alone.low > 0.4


def test_nothing_to_divide_by():
    assert confidence_interval([ErrorCounts(0, 2, 0, 0)]) is None
    with pytest.raises(ValueError, match="no reference words"):
        compare([ErrorCounts()], [ErrorCounts()])


def test_a_clear_difference_and_none():
    a, b = drawn(0.3, 300, 0), drawn(0.2, 300, 1)
    found = compare(a, b, draws=2000)
    assert found.difference == pytest.approx(-0.1, abs=0.03)
    assert found.interval.low < found.difference < found.interval.high < 0
    assert found.p_value < 0.01
    assert found.better == 1.0
    same = compare(a, drawn(0.3, 300, 3), draws=2000)
    assert same.interval.low < 0 < same.interval.high
    assert same.p_value > 0.05
    assert compare(a, a).p_value == 1.0


def test_pairing_sees_what_is_hidden_in_the_spread():
    """A small constant gain on utterances of very different difficulty."""
    a = [ErrorCounts(int(e), 0, 0, 100) for e in np.random.default_rng(0).integers(5, 95, 100)]
    b = [ErrorCounts(c.errors - 1, 0, 0, 100) for c in a]
    unpaired = confidence_interval(a)
    assert unpaired.high - unpaired.low > 0.05
    assert compare(a, b).p_value < 0.001


def test_p_values_of_no_difference_are_uniform():
    values = [compare(drawn(0.3, 60, 2 * i), drawn(0.3, 60, 2 * i + 1), draws=300).p_value for i in range(150)]
    assert 0.01 <= np.mean(np.array(values) < 0.05) <= 0.11


def test_resamplings_without_words_have_no_rate():
    """Of 50 utterances one has words; a resampling that misses it says nothing, least of all that all was right."""
    counts = [ErrorCounts(1, 0, 0, 2), *[ErrorCounts()] * 49]
    interval = confidence_interval(counts)
    assert (interval.low, interval.high) == (0.5, 0.5)
    found = compare([ErrorCounts()] * 49 + [ErrorCounts(0, 0, 0, 2)], [ErrorCounts()] * 49 + [ErrorCounts(1, 0, 0, 2)])
    assert found.interval.low == found.interval.high == found.difference == 0.5
    assert found.better == 0.0
    assert confidence_interval([ErrorCounts(1, 0, 0, 2), ErrorCounts()], draws=1) is None  # it draws the second twice


def test_one_group_says_nothing_of_others():
    counts = drawn(0.3, 20, 0)
    assert confidence_interval(counts, ["s"] * 20) is None
    assert confidence_interval(counts[:1]) is None
    with pytest.raises(ValueError, match="at least two groups, here is one"):
        compare(counts, counts[::-1], ["s"] * 20)


def test_what_a_line_belongs_to_must_be_known():
    lines = [{"speaker": 1}, {}, {"speaker": 2}, {"speaker": None}]
    with pytest.raises(InputError, match="2 of 4 lack 'speaker'"):
        groups_drawn(lines, "speaker", "line")
    assert groups_drawn(lines[::2], "speaker") == ["1", "2"]


def test_no_number_of_resamplings_makes_a_p_value_of_0():
    a, b = [ErrorCounts(5, 0, 0, 10)] * 30, [ErrorCounts(4, 0, 0, 10)] * 30
    assert compare(a, b, draws=99).p_value == pytest.approx(1 / 100)
    assert compare(a, b, draws=999).p_value == pytest.approx(1 / 1000)

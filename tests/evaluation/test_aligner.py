import math

import pytest

from nemo_speechlm.evaluation.aligner import TimedPhone, alignment_accuracy


def phones(**ends):
    return [TimedPhone(name, end) for name, end in ends.items()]


def test_boundaries_are_compared_where_both_have_the_phones():
    true = phones(a=0.12, b=0.2, c=0.5)
    accuracy = alignment_accuracy([(phones(a=0.1, b=0.25, c=0.5), true), (phones(a=0.2, c=0.5), true)], 0.03)
    assert accuracy.true_boundaries == 4
    assert accuracy.neighbours == 2, "a and c are neighbours in what was found alone"
    assert accuracy.boundaries == 1 / 4
    assert accuracy.matched_boundaries == 1 / 2
    assert accuracy.mean_error == pytest.approx((0.02 + 0.05) / 2)
    assert accuracy.mean_delay == pytest.approx((-0.02 + 0.05) / 2), "one early, one late"
    assert accuracy.count == 100
    assert accuracy.frames == pytest.approx((50 - 2 - 5 + 12 + 30) / 100)


def test_nothing_to_compare():
    accuracy = alignment_accuracy([(phones(b=0.5), phones(a=0.5))])
    assert accuracy.frames == 0
    assert all(map(math.isnan, (accuracy.boundaries, accuracy.matched_boundaries, accuracy.mean_error)))

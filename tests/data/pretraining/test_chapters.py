"""Each line once a pass, whatever the sizes; a chapter is decided by its number alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.pretraining import chapters
from nemo_speechlm.data.pretraining.chapters import Chapters, Cut, permuted


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chapters, "FEWEST_LINES", 20)
        yield


def cut(*arguments, shuffled_most=None, piece_lines=None, **options):
    return Chapters(*arguments, **options, cut=Cut(100, shuffled_most, piece_lines))


@given(
    lines=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    shuffle=st.booleans(),
    whole_files=st.booleans(),
    seed=st.integers(0, 3),
    shuffled_most=st.sampled_from([None, 0, 300]),
    piece_lines=st.sampled_from([None, 1, 30, 1000]),
)
def test_each_line_once_a_pass(lines, shuffle, whole_files, seed, shuffled_most, piece_lines):
    plan = cut(lines, (seed, 1), shuffle, whole_files, shuffled_most=shuffled_most, piece_lines=piece_lines)
    by_pass = {}
    for number in range(2 * plan.per_pass):
        for turn, rows in plan.rows(number):
            by_pass.setdefault(turn, Counter()).update(rows.tolist())
    assert len(by_pass) == 2 * plan.passes
    everything = Counter(range(sum(lines)))
    assert all(seen == everything for seen in by_pass.values())


def rows(plan, number):
    return np.concatenate([rows for _, rows in plan.rows(number)]).tolist()


def test_a_chapter_is_the_same_whenever_it_is_asked_for():
    plan = cut([500, 400], (0, 1))
    asked = [rows(plan, number) for number in range(20)]
    assert plan.per_pass == 9
    assert [rows(cut([500, 400], (0, 1)), number) for number in reversed(range(20))] == asked[::-1]
    assert rows(cut([500, 400], (1, 1)), 3) != asked[3]


def test_chapters_of_tar_files_read_few_of_them():
    plan = cut([50] * 20, (0, 1), whole_files=True)
    for number in range(2 * plan.per_pass):
        assert len({row // 50 for row in rows(plan, number)}) == 2


def test_long_files_of_lines_in_tars_come_in_pieces():
    plan = cut([1000, 90], (0, 1), whole_files=True, piece_lines=10)
    assert plan.per_pass == 11
    for number in range(2 * plan.per_pass):
        own = rows(plan, number)
        assert len({row // 10 for row in own if row < 1000}) == sum(row < 1000 for row in own) / 10
    assert cut([1000, 90], (0, 1), whole_files=True).per_pass == 2


def test_without_shuffling_lines_stand_in_order():
    plan = cut([300], (0, 1), shuffle=False)
    assert [row for number in range(plan.per_pass) for row in rows(plan, number)] == [*range(300)]


@given(size=st.integers(1, 3000), key=st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_what_is_computed_is_a_permutation(size, key):
    whole = permuted(np.arange(size), size, key)
    assert sorted(whole.tolist()) == [*range(size)]
    some = np.arange(size)[::3]
    assert np.array_equal(permuted(some, size, key), whole[::3])


def test_a_computed_order_looks_like_a_shuffled_one():
    """Places and neighbours of 100 passes over 2,000 lines, beside what chance allows: five standard deviations."""
    size, passes = 2000, 100
    orders = np.stack([permuted(np.arange(size), size, (7, turn)) for turn in range(passes)])
    counts = np.histogram2d(np.tile(np.arange(size), passes), orders.ravel(), bins=10)[0]
    expected = size * passes / 100
    assert np.abs(counts - expected).max() < 5 * expected**0.5
    steps = np.abs(np.diff(orders, axis=1))
    near = (steps <= 20).mean()  # of two drawn numbers, 40 / size
    assert abs(near - 40 / size) < 5 * (40 / size / steps.size) ** 0.5
    same = (orders[1:] == orders[:-1]).sum()  # one a pass
    assert abs(same - (passes - 1)) < 5 * passes**0.5


def test_large_data_have_a_computed_order():
    plan = cut([500, 400], (0, 1), shuffled_most=899)
    turns = [rows(plan, number) for number in range(18)]
    assert sorted(row for part in turns[:9] for row in part) == [*range(900)]
    assert turns[:9] != turns[9:]
    assert [row for part in turns[9:] for row in part] == permuted(np.arange(900), 900, (0, 1, 1)).tolist()
    assert rows(cut([500, 400], (0, 1), shuffled_most=900), 0) == rows(cut([500, 400], (0, 1)), 0)

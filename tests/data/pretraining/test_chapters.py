"""Each line once a pass, whatever the sizes; a chapter is decided by its number alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.pretraining import chapters
from nemo_speechlm.data.pretraining.chapters import Chapters


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chapters, "FEWEST_LINES", 20)
        yield


def cut(*arguments, **options):
    return Chapters(*arguments, **options, chapter_lines=100)


@given(
    lines=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    shuffle=st.booleans(),
    whole_files=st.booleans(),
    seed=st.integers(0, 3),
)
def test_each_line_once_a_pass(lines, shuffle, whole_files, seed):
    plan = cut(lines, (seed, 1), shuffle, whole_files)
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


def test_without_shuffling_lines_stand_in_order():
    plan = cut([300], (0, 1), shuffle=False)
    assert [row for number in range(plan.per_pass) for row in rows(plan, number)] == [*range(300)]

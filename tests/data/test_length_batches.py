"""Batches by length: all items, no batch too large, the same again, and on where a run left off."""

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.length_batches import LengthBatches, batches_by_length

LENGTHS = np.random.default_rng(0).integers(1, 60, 50)


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 100))
def test_each_item_is_in_one_batch(lengths, max_frames):
    batches = [batch.tolist() for batch in batches_by_length(lengths, max_frames)]
    assert sorted(item for batch in batches for item in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[item] for item in batch) * len(batch) <= max_frames
    flat = [lengths[item] for batch in batches for item in batch]
    assert flat == sorted(flat)


@given(st.lists(st.floats(0.0, 40.0), max_size=30), st.floats(0.0, 100.0))
def test_longest_first_in_seconds(durations, batch_duration):
    batches = batches_by_length(durations, batch_duration, longest_first=True)
    flat = [durations[item] for batch in batches for item in batch]
    assert flat == sorted(durations, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or durations[batch[0]] * len(batch) <= batch_duration


def take(count, start=0, **arguments):
    return list(islice(LengthBatches(LENGTHS, 200, **arguments, used=lambda: start), count))


def test_a_pass_has_all_items_in_batches_of_similar_length():
    batches = []
    for batch in LengthBatches(LENGTHS, 200):
        batches.append(batch)
        if sum(map(len, batches)) == len(LENGTHS):
            break
    assert sorted(item for batch in batches for item in batch) == list(range(len(LENGTHS)))
    padded = sum(max(LENGTHS[batch]) * len(batch) for batch in batches)
    assert padded < 1.2 * LENGTHS.sum()
    assert [max(LENGTHS[batch]) for batch in batches] != sorted(max(LENGTHS[batch]) for batch in batches)


def test_order_is_the_seeds():
    assert take(40) == take(40)
    assert take(40) != take(40, seed=1)
    assert take(20) != take(40)[20:], "passes differ"


def test_resumed_behind_what_was_used():
    assert take(10, start=17) == take(27)[17:]


def test_processes_share_the_batches():
    whole = take(30)
    assert take(15, world_size=2, rank=0) == whole[::2]
    assert take(15, world_size=2, rank=1) == whole[1::2]
    assert take(5, start=10, world_size=2, rank=1) == whole[1::2][10:]


def test_a_batch_may_be_as_long_as_is_allowed():
    assert [batch.tolist() for batch in batches_by_length([3, 4, 4], 12)] == [[0, 1, 2]]
    assert [batch.tolist() for batch in batches_by_length([3, 4, 4], 11)] == [[0, 1], [2]]
    assert [batch.tolist() for batch in batches_by_length([1.5, 2.0], 4.0, longest_first=True)] == [[1, 0]]

"""Batches of any sizes, chunk files that overlap, and what makes two plans two."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from nemo_speechlm.jobs.chunks import BatchedLines, Chunk, ChunkWriter, ListedBatches, gaps, has_results, scan
from nemo_speechlm.jobs.plan import Plan

LISTED = ListedBatches([3, 4, 9])


def batches(of: BatchedLines, chunk: Chunk) -> list[Chunk]:
    """Of a chunk of ten lines at most: if one were empty, they would have no end."""
    return list(islice(of.of(chunk), 11))


def test_listed_batches_begin_and_end_where_the_list_says():
    assert batches(LISTED, Chunk(0, 9)) == [Chunk(0, 3), Chunk(3, 4), Chunk(4, 9)]
    assert batches(LISTED, Chunk(1, 8)) == [Chunk(1, 3), Chunk(3, 4), Chunk(4, 8)], "a chunk may begin within one"
    assert [LISTED.begin(position) for position in range(10)] == [0, 0, 0, 3, 4, 4, 4, 4, 4, 9]
    assert [LISTED.end(position, 8) for position in range(8)] == [3, 3, 3, 4, 8, 8, 8, 8]
    assert LISTED.digest == ListedBatches([3, 4, 9]).digest != ListedBatches([3, 5, 9]).digest


def test_equal_sizes_are_a_list_too():
    listed, sized = ListedBatches([4, 8, 10]), BatchedLines(4)
    for chunk in (Chunk(0, 10), Chunk(2, 9), Chunk(4, 8)):
        assert batches(listed, chunk) == batches(sized, chunk)


def written(folder: Path, *chunks: Chunk) -> None:
    for chunk in chunks:
        with ChunkWriter(folder, "p", chunk, "a") as writer:
            writer.write([b'{"number": %d}\n' % number for number in range(*chunk)])


def test_of_chunks_that_overlap_the_larger_is_kept(tmp_path: Path):
    written(tmp_path, Chunk(0, 3), Chunk(0, 6), Chunk(4, 8), Chunk(6, 9), Chunk(12, 15))
    done = scan(tmp_path, "p", BatchedLines(3))
    assert done == [Chunk(0, 6), Chunk(6, 9), Chunk(12, 15)]
    assert len(list(tmp_path.iterdir())) == 3
    assert gaps(done, Chunk(1, 20)) == [Chunk(9, 12), Chunk(15, 20)]
    assert scan(tmp_path, "another", BatchedLines(3)) == []


def test_a_part_that_has_not_begun_is_no_result(tmp_path: Path):
    """What refuses another plan is work that would be lost."""
    writer = ChunkWriter(tmp_path, "0" * 64, Chunk(0, 90), "a")
    assert not has_results(tmp_path)
    writer.write([b'{"number": %d}\n' % number for number in range(30)])
    assert has_results(tmp_path)
    with pytest.raises(KeyboardInterrupt), writer:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "other", [{"source": "b"}, {"lines": 4}, {"batch_size": 3}, {"settings": {"a": 2}}, {"format": 0}]
)
def test_plans_that_differ_are_told_apart(other):
    plan = Plan.of("a", 5, 2, {"a": 1})
    assert replace(plan, **other).digest != plan.digest == Plan.of("a", 5, 2, {"a": 1}).digest
    assert plan.difference(replace(plan, **other))
    assert plan.difference(plan) is None

import pytest

from nemo_speechlm.data.manifests.shards import expand_shards


@pytest.mark.parametrize("pattern", ["a__OP_8..10_CL_.json", "a_{8..10}.json", "a_[8..10].json", "a_(8..10).json"])
def test_ranges(pattern):
    assert expand_shards(pattern) == ["a_8.json", "a_9.json", "a_10.json"]


def test_lists_with_weights():
    assert expand_shards([["a_{0..1}.json", 0.5], "b.json", ["c.json"]]) == [
        "a_0.json",
        "a_1.json",
        "b.json",
        "c.json",
    ]


def test_a_file_that_is_there_stands_for_itself(tmp_path):
    path = tmp_path / "a_{0..1}.json"
    path.touch()
    assert expand_shards(str(path)) == [str(path)]


@pytest.mark.parametrize("path", ["b (1).json", "b [x].json", "b (1.json", "b {1.json", "b <2>/c.json"])
def test_brackets_that_are_no_range(path):
    assert expand_shards(path) == [path]


def test_a_range_beside_other_brackets():
    assert expand_shards("data (1)/a_{0..1}.json") == ["data (1)/a_0.json", "data (1)/a_1.json"]

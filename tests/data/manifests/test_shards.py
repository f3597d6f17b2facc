import pytest

from nemo_speechlm.data.manifests.shards import expand_shards, one_file, paired
from nemo_speechlm.errors import InputError


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


def test_one_file():
    assert one_file("a (1).json", "a") == "a (1).json"
    for value, found in ((["a", "b"], "2 files"), ("a__OP_0..3_CL_.json", "4 files"), ([], "0 files"), (5, "5")):
        with pytest.raises(InputError, match=f"^a is {found}, expected one; join several with cat$"):
            one_file(value, "a")


def test_the_option_is_named_where_outputs_are_too_few():
    with pytest.raises(InputError, match="source names 2 files, output 1; expected as many"):
        paired(["a", "b"], "c", key="source")

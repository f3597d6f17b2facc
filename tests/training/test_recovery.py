"""States that kills and bad disks leave in a folder of checkpoints, and what a run goes on from."""

import os

import pytest
import torch

from nemo_speechlm.errors import InputError
from nemo_speechlm.training.recovery import put_in_order, step_of


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def save(folder, name, step, **more):
    folder.mkdir(exist_ok=True)
    values = torch.arange(3000.0) + step
    torch.save({"global_step": step, "optimizer_states": [], "state_dict": {"w": values}, **more}, folder / name)
    return folder / name


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[6000] ^= 1
    path.write_bytes(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_there_may_be_nothing(folder):
    put_in_order(folder)
    assert not folder.exists()
    folder.mkdir()
    put_in_order(folder)
    assert names(folder) == []


def test_what_is_in_order_stays(folder):
    for name, step in (("a-last.ckpt", 4), ("a-last.ckpt.previous", 3), ("a.ckpt", 4)):
        save(folder, name, step)
    (folder / "run.json").write_text("{}")
    put_in_order(folder)
    assert names(folder) == ["a-last.ckpt", "a-last.ckpt.previous", "a.ckpt", "run.json"]


@pytest.mark.parametrize("harm", [cut, flip])
def test_the_one_before_a_damaged_one(folder, harm):
    harm(save(folder, "b-last.ckpt", 4))
    save(folder, "a-last.ckpt.previous", 3)
    put_in_order(folder)
    assert names(folder) == ["a-last.ckpt", "b-last.ckpt.damaged"]
    assert step_of(folder / "a-last.ckpt") == 3


def test_of_two_last_files_the_newer_one_whatever_their_dates(folder):
    save(folder, "b-last.ckpt", 8)
    save(folder, "a-last.ckpt", 4)
    save(folder, "a-last-v1.ckpt", 6)
    put_in_order(folder)
    assert names(folder) == ["a-last-v1.ckpt.previous", "b-last.ckpt"]


def test_a_name_with_a_number_gets_the_one_that_nemo_looks_for(folder):
    save(folder, "a-last-v2.ckpt", 8)
    save(folder, "a-last.ckpt", 4)
    put_in_order(folder)
    assert names(folder) == ["a-last.ckpt"]
    assert step_of(folder / "a-last.ckpt") == 8


def test_a_stale_marker_condemns_no_sound_file(folder):
    save(folder, "a-last.ckpt", 4)
    for marker in ("a-last-unfinished", "b-last-unfinished"):
        (folder / marker).touch()
    (folder / ".partial.b-last.ckpt").write_bytes(b"half")
    put_in_order(folder)
    assert names(folder) == ["a-last.ckpt"]


def test_a_half_written_folder_is_removed(folder):
    save(folder, "a-last.ckpt", 4)
    (folder / "b-last").mkdir()
    (folder / "b-last" / "shard").write_text("x")
    (folder / "b-last-unfinished").touch()
    put_in_order(folder)
    assert names(folder) == ["a-last.ckpt"]


def test_a_best_checkpoint_that_is_newer_than_the_last_one(folder):
    save(folder, "a-last.ckpt", 4)
    save(folder, "b.ckpt", 8)
    put_in_order(folder)
    assert names(folder) == ["a-last.ckpt.previous", "b-last.ckpt", "b.ckpt"]
    assert step_of(folder / "b-last.ckpt") == 8


def test_best_checkpoints_of_weights_alone_are_no_place_to_go_on_from(folder):
    save(folder, "a-last.ckpt", 4)
    torch.save({"global_step": 8, "state_dict": {}}, folder / "b.ckpt")
    put_in_order(folder)
    assert names(folder) == ["a-last.ckpt", "b.ckpt"]


def test_damaged_best_checkpoints_are_set_aside(folder):
    save(folder, "a-last.ckpt", 4)
    cut(save(folder, "a.ckpt", 4))
    put_in_order(folder)
    assert names(folder) == ["a-last.ckpt", "a.ckpt.damaged"]


def test_where_none_can_be_read_nothing_is_begun_and_nothing_changed(folder):
    cut(save(folder, "a-last.ckpt", 4))
    flip(save(folder, "a-last.ckpt.previous", 3))
    with pytest.raises(InputError, match=r"none of the checkpoints of this run can be read:(?s:.)*cut off") as error:
        put_in_order(folder)
    assert "checksum" in str(error.value)
    assert names(folder) == ["a-last.ckpt", "a-last.ckpt.previous"]


@pytest.mark.parametrize("later", ["a", "b"])
def test_of_two_of_the_same_step_the_one_that_was_written_later(folder, later):
    for name in "ab":
        os.utime(save(folder, f"{name}-last.ckpt", 4), (1000.0 + (name == later),) * 2)
    put_in_order(folder)
    (earlier,) = {"a", "b"} - {later}
    assert names(folder) == sorted([f"{later}-last.ckpt", f"{earlier}-last.ckpt.previous"])

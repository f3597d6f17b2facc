"""Checkpoints on a disk that fails, and what is found out about damaged ones."""

import errno
import os
import random
import resource
from contextlib import contextmanager

import pytest
import torch

from nemo_speechlm.training.checkpoint_io import SafeCheckpointIO, damage, is_last


def content(step):
    generator = torch.Generator().manual_seed(step)
    return {"global_step": step, "state_dict": {"weight": torch.randn(60, 50, generator=generator)}}


def same(path, step):
    found = SafeCheckpointIO().load_checkpoint(path)
    weight = content(step)["state_dict"]["weight"]
    return found["global_step"] == step and torch.equal(found["state_dict"]["weight"], weight)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_two_generations_of_the_last_checkpoint_are_kept(tmp_path):
    plugin = SafeCheckpointIO()
    for step, loss in ((1, 0.9), (2, 0.9), (3, 0.5), (4, 0.4)):  # NeMo's names change with the figure
        plugin.save_checkpoint(content(step), tmp_path / f"run--val_loss={loss}-last.ckpt")
    plugin.save_checkpoint(content(4), tmp_path / "run--val_loss=0.4.ckpt")
    last, before = "run--val_loss=0.4-last.ckpt", "run--val_loss=0.5-last.ckpt.previous"
    assert names(tmp_path) == [last, "run--val_loss=0.4.ckpt", before]
    assert same(tmp_path / last, 4)
    assert same(tmp_path / before, 3)
    plugin.save_checkpoint(content(5), tmp_path / last)
    assert names(tmp_path) == [last, f"{last}.previous", "run--val_loss=0.4.ckpt"]
    plugin.remove_checkpoint(tmp_path / last)  # NeMo would remove it when it has another; that is done here
    plugin.remove_checkpoint(tmp_path / "run--val_loss=0.4.ckpt")
    assert names(tmp_path) == [last, f"{last}.previous"]


@pytest.mark.parametrize("name", ["a-last.ckpt", "a-last-v1.ckpt", "a-last.ckpt.previous"])
def test_names_of_last_checkpoints(name):
    assert is_last(name)
    assert not is_last(name.replace("-last", ""))


@contextmanager
def no_more_than(size):
    """Let the system refuse to write more into a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def no_space():
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        yield


@pytest.mark.parametrize(
    "failing", [no_more_than(5000), no_space()], ids=["in the midst", "when it is brought to disk"]
)
def test_a_full_disk_keeps_what_is_there(tmp_path, failing):
    plugin = SafeCheckpointIO()
    plugin.save_checkpoint(content(1), tmp_path / "a-last.ckpt")
    plugin.save_checkpoint(content(1), tmp_path / "a.ckpt")
    with failing:
        for name in ("a-last.ckpt", "b-last.ckpt", "b.ckpt"):
            plugin.save_checkpoint(content(2), tmp_path / name)
        plugin.remove_checkpoint(tmp_path / "a.ckpt")  # for b.ckpt, which is not there
    assert names(tmp_path) == ["a-last.ckpt", "a.ckpt"]
    assert same(tmp_path / "a-last.ckpt", 1)
    assert plugin.failed == [str(tmp_path / name) for name in ("a-last.ckpt", "b-last.ckpt", "b.ckpt")]
    plugin.save_checkpoint(content(3), tmp_path / "c-last.ckpt")
    plugin.remove_checkpoint(tmp_path / "a.ckpt")
    assert names(tmp_path) == ["a-last.ckpt.previous", "c-last.ckpt"]


def test_the_name_is_given_when_all_is_on_the_disk(tmp_path, monkeypatch):
    order = []
    real = {"fsync": os.fsync, "replace": os.replace}
    for name, call in real.items():
        monkeypatch.setattr(os, name, lambda *args, name=name, call=call: (order.append(name), call(*args))[1])
    SafeCheckpointIO().save_checkpoint(content(1), tmp_path / "a.ckpt")
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_what_cannot_be_pickled_is_an_error(tmp_path):
    with pytest.raises(Exception, match="pickle"):
        SafeCheckpointIO().save_checkpoint({"bad": lambda: None}, tmp_path / "a.ckpt")
    assert names(tmp_path) == []


def test_every_cut_and_every_flipped_byte_is_found_or_does_no_harm(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save(content(1), path)  # as an earlier version did
    assert damage(path) is None
    whole = path.read_bytes()
    draw = random.Random(0)
    for length in [0, 1, 30, len(whole) // 2, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(20))]:
        path.write_bytes(whole[:length])
        assert "cut off" in damage(path)
        assert damage(path, contents=False) is not None
    found = 0
    places = [*(draw.randrange(len(whole)) for _ in range(150)), *range(len(whole) - 600, len(whole))]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        if damage(path) is None:
            assert same(path, 1), place
        else:
            found += 1
    assert found > len(places) // 3


@pytest.mark.parametrize("text", ["", "not a checkpoint\n" * 100])
def test_what_is_no_checkpoint_is_damaged(tmp_path, text):
    path = tmp_path / "a.ckpt"
    path.write_text(text)
    assert damage(path) is not None
    assert damage(tmp_path / "gone.ckpt") is not None

"""How the processes of a training end when one of them has failed."""

import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment
from nemo.utils.get_rank import is_global_rank_zero
from torch import distributed

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.testing.configs import tiny_pretrain_config, tiny_recipe
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.processes import run_in_processes
from nemo_speechlm.training import peers
from nemo_speechlm.training.run import train


def test_processes_that_wait_for_ever_are_ended(monkeypatch):
    """As those that wait in a collective of NCCL."""
    monkeypatch.setattr(peers, "_GRACE", 0.5)
    waiting = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ended = subprocess.Popen([sys.executable, "-c", ""])
    begun = time.monotonic()
    try:
        trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[waiting, ended])))
        peers.end_others(trainer)
        assert waiting.wait(10) < 0
        assert ended.wait(10) == 0
        assert time.monotonic() - begun < 20
    finally:
        waiting.kill()


def test_nobody_to_end():
    for launcher in (None, SimpleNamespace(), SimpleNamespace(procs=None)):
        peers.end_others(SimpleNamespace(strategy=SimpleNamespace(launcher=launcher)))


def _train_on_a_disk_of_its_own(rank, corpus, folder, steps):
    cfg = tiny_recipe(folder, tiny_pretrain_config(corpus), steps, devices=2)
    cfg.exp_manager.exp_dir = str(folder / "runs" / f"node{rank}")
    try:
        train(cfg, lambda model, trainer: SpeechLMModel(cfg=model, trainer=trainer))
    except SpeechLMError as error:
        (folder / f"said{rank}").write_text(str(error))
        os._exit(1)


@pytest.mark.timeout(300)
def test_processes_that_would_go_on_from_different_checkpoints(tmp_path):
    """The first process alone has written checkpoints; the other one would begin anew."""
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=16, n_text=60)
    assert run_in_processes(_train_on_a_disk_of_its_own, 2, corpus, tmp_path, 2) == [0, 0]
    (tmp_path / "out.nemo").unlink()
    assert 1 in run_in_processes(_train_on_a_disk_of_its_own, 2, corpus, tmp_path, 4)
    assert not (tmp_path / "out.nemo").exists()
    (said,) = tmp_path.glob("said*")  # one tells it for both
    found = (
        r"process 1 on \S+ finds no checkpoint to go on from, and the first process on \S+ the checkpoint .*-last.ckpt"
    )
    assert re.search(found, said.read_text())
    assert "must be a folder that all nodes see" in said.read_text()


def _end_one_after_another(rank, folder):
    distributed.init_process_group("gloo")
    trainer = SimpleNamespace(world_size=2, is_global_zero=rank == 0)
    for number in range(2):
        with peers.until_the_first_is_done(trainer):
            if rank == 0:
                time.sleep(1)
                (folder / f"{number}").write_text("written")
        assert (folder / f"{number}").exists()
    if rank == 0:  # which fails the third time: the other one does not wait for ever
        os._exit(3)
    with peers.until_the_first_is_done(trainer):
        pass


@pytest.mark.timeout(120)
def test_all_wait_until_the_first_has_written(tmp_path):
    assert run_in_processes(_end_one_after_another, 2, tmp_path, seconds=60) == [3, 0]


def test_the_rank_that_nemo_sees_in_a_slurm_shell(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    environment = LightningEnvironment()
    trainer = SimpleNamespace(global_rank=2, strategy=SimpleNamespace(cluster_environment=environment))
    assert is_global_rank_zero()
    with peers.own_rank(trainer):
        assert not is_global_rank_zero()
    assert is_global_rank_zero()
    monkeypatch.delenv("SLURM_PROCID")
    with peers.own_rank(trainer):
        assert "RANK" not in os.environ


def test_what_failed_is_told_beside_the_guess(monkeypatch):
    found = r"cannot be reached.*NCCL error: out of shared memory"
    with pytest.raises(SpeechLMError, match=found), peers.one_message(SimpleNamespace(world_size=2)):
        raise RuntimeError("NCCL error: out of shared memory\nand a trace")

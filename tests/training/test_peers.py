"""How the processes of a training end when one of them has failed."""

import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

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
    found = r"process 1 on \S+ finds no checkpoint to go on from, and the first process on \S+ the checkpoint .*-last.ckpt"
    assert re.search(found, said.read_text())
    assert "must be a folder that all nodes see" in said.read_text()

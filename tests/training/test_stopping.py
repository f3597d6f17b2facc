"""A training of two processes, one of which is told to stop."""

import os
import signal
import subprocess

import pytest
import torch
from lightning.pytorch import Callback
from omegaconf import OmegaConf

from nemo_speechlm.errors import Unfinished
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.testing.configs import tiny_pretrain_config, tiny_recipe
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.processes import run_in_processes
from nemo_speechlm.training.run import train
from nemo_speechlm.training.saving import Saver


class ToldAt(Callback):
    """Sends this process SIGTERM in the middle of its third update."""

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        if batch_idx == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def _train(rank, corpus, folder):
    cfg = tiny_recipe(folder, tiny_pretrain_config(corpus), 1000, devices=2, accumulate_grad_batches=2)
    _train_until_told(cfg, [ToldAt()] if rank == 1 else [], folder / f"said{rank}")


def _train_until_told(cfg, callbacks, said):
    """End with the status of a command that is to be run again, and leave what it says."""

    def model(cfg, trainer):
        trainer.callbacks.extend(callbacks)
        return SpeechLMModel(cfg=cfg, trainer=trainer)

    try:
        train(cfg, model)
    except Unfinished as pause:
        said.write_text(str(pause))
        os._exit(75)


@pytest.mark.timeout(300)
def test_a_signal_to_one_process_stops_both_after_a_whole_update(tmp_path):
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=16, n_text=60)
    statuses = run_in_processes(_train, 2, corpus, tmp_path)
    assert statuses[0] == 75
    assert statuses[1] in (0, 75)  # the launcher ends it, or it ends by itself
    said = (tmp_path / "said0").read_text()
    (last,) = tmp_path.glob("runs/**/*-last.ckpt")
    checkpoint = torch.load(last, weights_only=False)
    step = checkpoint["global_step"]
    assert step in (3, 4)  # the other process learns of it with the next update
    assert f"SIGTERM was received at step {step}" in said
    assert "Run the same command again to go on" in said
    assert not (tmp_path / "out.nemo").exists()
    batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert batches["completed"] == batches["ready"] == 2 * step


class AllToldAt(Callback):
    """Has SIGTERM sent to all processes of the session in the middle of the third update, as SLURM does."""

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        if batch_idx == 4:
            subprocess.run(["kill", "-s", "TERM", "--", f"-{os.getpgrp()}"], check=True, start_new_session=True)


def _train_with_workers(rank, corpus, folder):
    data = tiny_pretrain_config(corpus)
    data.train_ds.num_workers = 2
    cfg = tiny_recipe(folder, data, 1000, accumulate_grad_batches=2)
    _train_until_told(cfg, [AllToldAt()], folder / "said")


@pytest.mark.timeout(300)
def test_a_signal_to_all_processes_leaves_the_workers_to_finish_the_update(tmp_path):
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=16, n_text=60)
    assert run_in_processes(_train_with_workers, 1, corpus, tmp_path) == [75]
    assert "SIGTERM was received at step 3" in (tmp_path / "said").read_text()
    (last,) = tmp_path.glob("runs/**/*-last.ckpt")
    assert torch.load(last, weights_only=False)["global_step"] == 3


def _both_told(rank, folder):
    """One is told by SIGTERM, the other by SIGUSR1; what they wish is known with the next update."""
    torch.distributed.init_process_group("gloo")
    saver = Saver(OmegaConf.create({"save_every_minutes": 1e-9 if rank else None}))
    saver._group, saver._asked = torch.distributed.group.WORLD, 3 - rank
    torch.save([saver._agreed(), saver._agreed()], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_that_are_all_told_agree_on_the_strongest_wish(tmp_path):
    assert run_in_processes(_both_told, 2, tmp_path) == [0, 0]
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == [(0, False), (3, True)]

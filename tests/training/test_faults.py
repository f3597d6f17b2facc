"""Trainings with bad audio and bad lines, in one process and in two: none hangs, none learns NaN, one message."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from nemo_speechlm.data.bad_examples import LIST_NAME
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.testing.configs import tiny_pretrain_config, tiny_recipe
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.processes import run_in_processes
from nemo_speechlm.training.run import train
from tests.faults import FAULTS, spoil
from tests.long_forms import LONG

LONGEST = 60
"""Seconds that no run may take from what is wrong to its end; how long it takes to begin depends on the machine."""

FOUND = "found"
"""A file that is made when a process first comes to what is wrong."""


def recipe(folder, corpus, num_workers=0, devices=1, steps=4, **data):
    model = tiny_pretrain_config(corpus)
    for part in ("train_ds", "validation_ds"):
        model[part] = {**model[part], "num_workers": num_workers, "timeout": LONGEST, **data}
    model.loss.feature_penalty = 10.0
    cfg = tiny_recipe(folder, model, steps, devices=devices)
    cfg.exp_manager.checkpoint_callback_params.save_top_k = 0
    return cfg


def run(cfg):
    train(cfg, lambda model, trainer: SpeechLMModel(cfg=model, trainer=trainer))


def note(folder):
    """Leave the time, if no other process has."""
    with suppress(FileExistsError):
        os.close(os.open(folder / FOUND, os.O_CREAT | os.O_EXCL))


def noting(folder):
    """Note when the first error of a line or a file is made, in this process or a loader's worker."""
    make = InputError.__init__

    def noted(self, *arguments, **options):
        note(folder)
        make(self, *arguments, **options)

    InputError.__init__ = noted


def assert_soon(folder):
    """All processes have ended by now."""
    assert time.time() - (folder / FOUND).stat().st_mtime < LONGEST


def as_command(rank, cfg, log):
    """One process of a launcher such as torchrun, which says what commands say."""
    noting(log.parent)
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), stream)
    status = 0
    try:
        run(cfg)
    except SpeechLMError as error:
        os.write(2, f"error: {error}\n".encode())
        status = 1
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 3
    os._exit(status)


def in_processes(cfg, folder):
    """Run a recipe in as many processes as it has devices; their statuses, and what they have said."""
    log = folder / "log"
    for left in (log, folder / FOUND):
        left.unlink(missing_ok=True)
    try:
        statuses = run_in_processes(as_command, cfg.trainer.devices, cfg, log, seconds=3 * LONGEST)
    except TimeoutError as error:
        raise AssertionError(log.read_text(errors="replace")[-3000:]) from error
    return statuses, log.read_text(errors="replace")


def assert_learned(folder):
    assert (folder / "out.nemo").exists()
    (last,) = folder.glob("runs/**/*-last.ckpt")
    checkpoint = torch.load(last, weights_only=False)
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    return checkpoint


def listed(folder):
    (path,) = folder.glob(f"runs/**/{LIST_NAME}")
    return [json.loads(line)["line"] for line in path.read_text().splitlines()]


def assert_one_message(statuses, said, start):
    assert statuses == [1] * len(statuses), said[-3000:]
    assert "Traceback" not in said, said[-3000:]
    (message,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert message.startswith(f"error: {start}")


@pytest.fixture
def spoiled(tmp_path):
    """A corpus with every fault, and the lines that have one."""
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=24, n_text=16)
    for place, fault in enumerate(FAULTS):
        spoil(corpus.speech, 2 * place + 1, fault)
    return corpus, [2 * place + 1 for place in range(len(FAULTS))]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_faults_are_skipped(tmp_path, spoiled, num_workers):
    corpus, lines = spoiled
    run(recipe(tmp_path, corpus, num_workers, on_bad="skip", max_bad=1.0))
    checkpoint = assert_learned(tmp_path)
    assert sorted(listed(tmp_path)) == lines
    loader = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    assert loader["examples"][1] > 0


def test_two_processes_skip_all_faults(tmp_path, spoiled):
    corpus, lines = spoiled
    cfg = recipe(tmp_path, corpus, devices=2, on_bad="skip", max_bad=1.0)
    statuses, said = in_processes(cfg, tmp_path)
    assert statuses == [0, 0], said[-3000:]
    assert_learned(tmp_path)
    assert sorted(listed(tmp_path)) == lines


@pytest.mark.parametrize("fault", FAULTS if LONG else ["truncated", "not JSON"])  # seen in training, and before it
@pytest.mark.parametrize("num_workers", [0, 2] if LONG else [0])
@pytest.mark.parametrize("devices", [1, 2] if LONG else [2])
def test_one_message(tmp_path, fault, num_workers, devices):
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=12, n_text=16)
    spoil(corpus.speech, 7, fault)
    cfg = recipe(tmp_path, corpus, num_workers, devices, steps=20)
    statuses, said = in_processes(cfg, tmp_path)
    assert_soon(tmp_path)
    assert_one_message(statuses, said, f"{corpus.speech}:7: ")
    assert not (tmp_path / "out.nemo").exists()
    if LONG:
        cfg = recipe(tmp_path, corpus, num_workers, devices, on_bad="skip")
        statuses, said = in_processes(cfg, tmp_path)
        assert statuses == [0] * devices, said[-3000:]
        assert_learned(tmp_path)
        assert listed(tmp_path) == [7]


def test_batches_without_a_good_example_change_nothing(tmp_path):
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=4, n_text=16)
    for number in range(1, 5):
        spoil(corpus.speech, number, "nan")
    begun = {}

    def build(model, trainer):
        model = SpeechLMModel(cfg=model, trainer=trainer)
        begun.update({name: value.clone() for name, value in model.state_dict().items()})
        return model

    train(recipe(tmp_path, corpus, steps=12, on_bad="skip", max_bad=1.0), build)  # more than may be skipped in a row
    weights = assert_learned(tmp_path)["state_dict"]
    assert all(torch.equal(weights[name], value) for name, value in begun.items())
    (record, *others) = next(iter(tmp_path.glob("runs/**/skipped_updates_rank0.jsonl"))).read_text().splitlines()
    assert json.loads(record)["lost"]
    assert len(others) == 11


class KilledPeer(SpeechLMModel):
    """Its second process dies in the third step, as for want of memory."""

    def training_step(self, batch, batch_idx):
        if batch_idx == 2 and self.global_rank == 1:
            note(Path(self.cfg.noted_in))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)


def test_a_process_that_is_left_alone_says_so(tmp_path, monkeypatch):
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=12, n_text=16)
    monkeypatch.setitem(globals(), "SpeechLMModel", KilledPeer)
    cfg = recipe(tmp_path, corpus, devices=2, steps=20)
    cfg.model.noted_in = str(tmp_path)
    statuses, said = in_processes(cfg, tmp_path)
    assert_soon(tmp_path)
    assert statuses == [1, -signal.SIGKILL]
    assert "Traceback" not in said, said[-3000:]
    assert said.count("another process of this training has ended") == 1
    assert Path(tmp_path / "out.nemo").exists() is False

"""Trainings of a model of one weight that are stopped, killed, held, or run out of disk: none needs a step by hand."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from nemo.utils.callbacks import NeMoModelCheckpoint
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nemo_speechlm.errors import InputError, SpeechLMError, Unfinished
from nemo_speechlm.training import checkpoint_io
from nemo_speechlm.training import run as training
from nemo_speechlm.training.recovery import step_of
from nemo_speechlm.training.saving import Saver, _order_by_age
from tests.test_locks import HOLDER
from tests.training.test_run import OneWeight, recipe, train  # noqa: F401  # a fixture


class Killed(Exception):
    """Stands for a kill: nothing is saved after it."""


def at_batch(monkeypatch, number, action):
    """Do something in the training step of a batch, counted from 1 in each training."""
    real = OneWeight.training_step

    def step(self, batch, batch_idx):
        if len(self.seen["batches"]) + 1 == number:
            action(self)
        return real(self, batch, batch_idx)

    monkeypatch.setattr(OneWeight, "training_step", step)


def send(number):
    return lambda model: os.kill(os.getpid(), number)


def killed(model):
    raise Killed


def checkpoints(folder):
    return {path.name: step_of(path) for path in folder.rglob("checkpoints/*.ckpt*")}


def last_step(folder):
    (step,) = [step for name, step in checkpoints(folder).items() if name.endswith("-last.ckpt")]
    return step


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_at_the_end_of_the_update(recipe, tmp_path, monkeypatch, number):  # noqa: F811
    accumulating = {"trainer__accumulate_grad_batches": 3, "trainer__val_check_interval": 100}
    taken = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(one) for one in taken]
    with monkeypatch.context() as patch:
        at_batch(patch, 4, send(number))
        with pytest.raises(Unfinished, match=f"{number.name} was received at step 2 of 8; .*-last.ckpt is kept"):
            train(recipe, **accumulating)
    assert len(OneWeight.seen["batches"]) == 6  # the whole update
    assert [signal.getsignal(one) for one in taken] == before
    assert last_step(tmp_path) == 2
    assert not (tmp_path / "out.nemo").exists()
    _, seen = train(recipe, **accumulating)
    assert len(seen["batches"]) == 18
    assert seen["steps"][-1] == 8


def test_ctrl_c_saves_and_a_second_one_does_not_wait(recipe, tmp_path, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch:
        at_batch(patch, 2, send(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train(recipe)
    assert last_step(tmp_path) == 2
    with monkeypatch.context() as patch:
        at_batch(patch, 1, lambda model: (send(signal.SIGINT)(model), send(signal.SIGINT)(model)))
        with pytest.raises(KeyboardInterrupt):
            train(recipe)
    assert last_step(tmp_path) == 2
    _, seen = train(recipe)
    assert seen["steps"] == [3, 4, 5, 6, 7, 8]


def test_a_signal_before_training_ends_the_run_at_once(recipe, monkeypatch):  # noqa: F811
    monkeypatch.setattr(OneWeight, "setup_training_data", lambda self, config: send(signal.SIGTERM)(self))
    with pytest.raises(Unfinished, match="SIGTERM was received before training began"):
        train(recipe)


def test_a_validation_that_is_due_is_not_lost(recipe, tmp_path, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch:
        at_batch(patch, 4, send(signal.SIGTERM))  # which a validation follows
        with pytest.raises(Unfinished, match="at step 4 of 8"):
            train(recipe)
    assert [step for name, step in checkpoints(tmp_path).items() if "-last" not in name] == [4]  # its best one


def validating(monkeypatch, *figures):
    """Let validations find these figures, one after another."""
    left = list(figures)

    def step(self, batch, batch_idx):
        self.log("val_loss", torch.tensor(left[0]))

    monkeypatch.setattr(OneWeight, "validation_step", step)
    monkeypatch.setattr(OneWeight, "on_validation_end", lambda self: left.pop(0))


def best_ones(folder):
    return sorted(
        float(name.partition("val_loss=")[2].split("-")[0]) for name in checkpoints(folder) if "-last" not in name
    )


@pytest.mark.parametrize("minutes", [None, 1e-9])
def test_a_validation_within_an_update_after_a_timed_save(recipe, tmp_path, monkeypatch, minutes):  # noqa: F811
    validating(monkeypatch, 0.1, 0.5, 0.9, 1.0, 1.0)
    within = {"trainer__accumulate_grad_batches": 4, "trainer__val_check_interval": 6, "trainer__max_steps": 6}
    train(recipe, **within, save="best", save_every_minutes=minutes)
    assert best_ones(tmp_path) == [0.1]


def test_figures_that_are_not_finite_are_not_among_the_best(recipe, tmp_path, monkeypatch):  # noqa: F811
    validating(monkeypatch, float("nan"), 0.5, float("inf"), 0.4)
    several = {"exp_manager__checkpoint_callback_params__save_top_k": 3, "trainer__val_check_interval": 2}
    train(recipe, **several, save="average")
    assert best_ones(tmp_path) == [0.4, 0.5]


def test_the_validation_of_the_first_batch_after_a_resume_takes_place(recipe, monkeypatch):  # noqa: F811
    validated = []
    monkeypatch.setattr(OneWeight, "on_validation_end", lambda self: validated.append(self.trainer.global_step))
    with monkeypatch.context() as patch:
        at_batch(patch, 3, send(signal.SIGTERM))
        with pytest.raises(Unfinished):
            train(recipe)
    train(recipe)
    assert validated == [4, 8]


def test_a_kill_loses_no_more_than_the_minutes_between_saves(recipe, tmp_path, monkeypatch):  # noqa: F811
    with monkeypatch.context() as patch:
        at_batch(patch, 4, killed)
        with pytest.raises(Killed):
            train(recipe, save_every_minutes=1e-9)
    assert sorted(checkpoints(tmp_path).values()) == [2, 3]
    (newest,) = tmp_path.rglob("*-last.ckpt")
    newest.write_bytes(newest.read_bytes()[:-100])
    _, seen = train(recipe, save_every_minutes=5)
    assert seen["steps"] == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("minutes", [0, -1, "often", True])
def test_minutes_are_a_number_above_0(recipe, minutes):  # noqa: F811
    with pytest.raises(SpeechLMError, match="save_every_minutes is"):
        train(recipe, save_every_minutes=minutes)


def test_a_full_disk_is_a_warning_and_training_goes_on(recipe, tmp_path, monkeypatch):  # noqa: F811
    real = checkpoint_io._dump
    steps = []
    files = {}

    def dump(checkpoint, file):
        steps.append(checkpoint["global_step"])
        if 4 <= checkpoint["global_step"] < 8:
            file.write(b"half")
            raise OSError(28, os.strerror(28))
        real(checkpoint, file)

    class Look(Callback):
        def on_train_batch_start(self, trainer, model, batch, batch_idx):
            if trainer.global_step in (3, 7):
                callback = trainer.checkpoint_callback
                known = (callback.best_model_path, callback.last_model_path)
                files[trainer.global_step] = (checkpoints(tmp_path), *known)

    maker = training.Trainer
    monkeypatch.setattr(checkpoint_io, "_dump", dump)
    monkeypatch.setattr(
        "nemo_speechlm.training.trainer.Trainer", lambda **o: maker(**{**o, "callbacks": [*o["callbacks"], Look()]})
    )
    train(recipe, trainer__val_check_interval=2, save="best")
    assert set(steps) == {2, 4, 6, 8}
    assert files[3] == files[7]  # two saves were in vain, and both checkpoints of before are there and known
    assert sorted(files[3][0].values()) == [2, 2]
    assert last_step(tmp_path) == 8
    assert not list(tmp_path.rglob(".partial*"))


def test_two_runs_do_not_share_a_folder(recipe, tmp_path):  # noqa: F811
    folder = tmp_path / "runs" / "run"
    command = [sys.executable, "-c", HOLDER, str(Path(__file__).parents[2]), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            found = rf"another run works in this folder \(process {holder.pid} on .*name="
            with pytest.raises(InputError, match=found):
                train(recipe)
        finally:
            holder.kill()
    train(recipe)
    assert not list(tmp_path.rglob(".lock*"))


def test_a_run_has_one_curve_however_often_it_was_interrupted(recipe, tmp_path, monkeypatch):  # noqa: F811
    curve = {"exp_manager__create_tensorboard_logger": True, "trainer__log_every_n_steps": 1}
    real = OneWeight.training_step

    def step(self, batch, batch_idx):
        self.log("step_is", float(self.trainer.global_step))
        return real(self, batch, batch_idx)

    monkeypatch.setattr(OneWeight, "training_step", step)
    for stop in (7, 3):  # the two batches after the validation at step 4 are lost each time
        with monkeypatch.context() as patch:
            at_batch(patch, stop, killed)
            with pytest.raises(Killed):
                train(recipe, **curve)
    train(recipe, **curve)
    events = EventAccumulator(str(tmp_path / "runs" / "run")).Reload()
    assert [event.step for event in events.Scalars("step_is")] == list(range(8))
    assert [event.value for event in events.Scalars("step_is")] == list(range(8))
    assert [event.step for event in events.Scalars("val_loss")] == [3, 7]
    assert len(list(tmp_path.rglob("events.out*"))) == 3


def test_a_run_that_left_no_checkpoint_is_not_on_the_curve_of_the_next(recipe, tmp_path, monkeypatch):  # noqa: F811
    curve = {"exp_manager__create_tensorboard_logger": True, "trainer__log_every_n_steps": 1}
    with monkeypatch.context() as patch:
        at_batch(patch, 3, killed)
        with pytest.raises(Killed):
            train(recipe, **curve)
    assert not list(tmp_path.rglob("*.ckpt"))
    train(recipe, **curve, trainer__max_steps=2)
    events = EventAccumulator(str(tmp_path / "runs" / "run")).Reload()
    assert [event.step for event in events.Scalars("epoch")] == [0, 1]


def test_events_that_cannot_be_written_end_no_training(recipe, monkeypatch):  # noqa: F811
    lost = []

    def full(self, metrics, step=None):
        lost.append(step)
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", full)
    _, seen = train(recipe, exp_manager__create_tensorboard_logger=True, trainer__log_every_n_steps=1)
    assert lost
    assert seen["steps"][-1] == 8


def test_a_damaged_best_checkpoint_is_passed_over(recipe, tmp_path, monkeypatch):  # noqa: F811
    real = training._load_best

    def harm(model, trainer, most):
        (best,) = [path for path in tmp_path.rglob("*.ckpt") if "-last" not in path.name]
        best.write_bytes(best.read_bytes()[:3000])
        return real(model, trainer, most)

    monkeypatch.setattr(training, "_load_best", harm)
    weight, _ = train(recipe, save="best")
    assert weight > 0


class NothingRight(OneWeight):
    """As long as all words are wrong, error rates tell no checkpoints apart."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", torch.tensor(1.0))


@pytest.mark.parametrize("kept", [1, 2])
def test_of_equally_good_checkpoints_the_later_are_kept(recipe, tmp_path, monkeypatch, kept):  # noqa: F811
    monkeypatch.setattr("tests.training.test_run.OneWeight", NothingRight)
    recipe.exp_manager.checkpoint_callback_params.save_top_k = kept
    train(recipe, trainer__val_check_interval=2, trainer__max_steps=4, save="best")

    def steps():
        paths = [path for path in tmp_path.rglob("*.ckpt") if not path.stem.endswith("-last")]
        return sorted(torch.load(path, weights_only=False)["global_step"] for path in paths)

    assert steps() == [2, 4][-kept:]
    changed = {"trainer__val_check_interval": 2, "overwrite": True}
    best, _ = train(recipe, **changed, save="best")
    assert steps() == [6, 8][-kept:]
    last, _ = train(recipe, **changed, save="last")
    assert best == last


@pytest.mark.parametrize("newer", [2, 4])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_resumed_run_gives_up_the_oldest_of_equally_good_checkpoints(recipe, tmp_path, monkeypatch, mode, newer):  # noqa: F811
    monkeypatch.setattr("tests.training.test_run.OneWeight", NothingRight)
    recipe.exp_manager.checkpoint_callback_params.update(save_top_k=2, mode=mode)
    changed = {"trainer__val_check_interval": 2, "overwrite": True}
    train(recipe, **changed, trainer__max_steps=4)

    def kept():
        paths = [path for path in tmp_path.rglob("*.ckpt") if not path.stem.endswith("-last")]
        return {torch.load(path, weights_only=False)["global_step"]: path for path in paths}

    for step, path in kept().items():
        os.utime(path, (1000.0 + (step == newer),) * 2)
    train(recipe, **changed, trainer__max_steps=6)
    assert set(kept()) == {newer, 6}


def test_all_processes_count_the_best_checkpoints_that_the_first_one_found(tmp_path):
    callback, saver = NeMoModelCheckpoint(tmp_path, monitor="val_loss"), Saver(OmegaConf.create({}))
    found = {"best_k_models": {"a.ckpt": torch.tensor(1.0)}, "kth_best_model_path": "a.ckpt"}
    trainer = SimpleNamespace(
        checkpoint_callback=callback, is_global_zero=False, world_size=1,
        strategy=SimpleNamespace(broadcast=lambda own: {**own, **found}),
    )  # fmt: skip
    with saver.listening():
        saver.on_train_start(trainer, None)
    assert {name: getattr(callback, name) for name in found} == found


@pytest.mark.parametrize(("mode", "worst"), [("min", "c"), ("max", "b")])
def test_after_a_resume_the_worst_that_is_kept_is_the_first_to_go(tmp_path, mode, worst):
    kept = {}
    for age, (name, value) in enumerate({"a": 1.0, "b": 1.0, "c": 2.0}.items()):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000.0 - age,) * 2)
        kept[str(tmp_path / name)] = torch.tensor(value)
    callback = SimpleNamespace(mode=mode, save_top_k=3, best_k_models=kept, kth_best_model_path="")
    _order_by_age(callback)
    assert [Path(path).name for path in callback.best_k_models] == ["c", "b", "a"]
    assert Path(callback.kth_best_model_path).name == worst

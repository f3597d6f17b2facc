"""Trainings of a model of one weight: what a second command does in the folder of a first."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ModelParallelStrategy, SingleDeviceStrategy
from nemo.core.classes import ModelPT
from nemo.core.optim.lr_scheduler import prepare_lr_scheduler
from omegaconf import OmegaConf

import nemo_speechlm.models.common.schedules  # noqa: F401  # registers TriStage
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.errors import InputError, SpeechLMError, Unfinished
from nemo_speechlm.models.common.pretrained import read_nemo
from nemo_speechlm.testing.configs import tiny_recipe
from nemo_speechlm.training import run as training
from nemo_speechlm.training import trainer as trainer_module
from nemo_speechlm.training.saving import Saver

POLYNOMIAL = {"name": "PolynomialDecayAnnealing", "power": 1.0, "warmup_steps": 4, "min_lr": 0.0}
TRI_STAGE = {"name": "TriStage", "phase_ratio": [0.25, 0.25, 0.5], "init_lr_scale": 0.01, "final_lr_scale": 0.05}


def test_a_model_that_cannot_be_divided():
    trainer = SimpleNamespace(strategy=ModelParallelStrategy())
    with pytest.raises(SpeechLMError, match=r"trainer\.strategy=fsdp2 is not possible with a OneWeight"):
        training._check_divisible(trainer, OneWeight(OmegaConf.create({})))
    training._check_divisible(SimpleNamespace(strategy=SingleDeviceStrategy()), OneWeight(OmegaConf.create({})))


@pytest.mark.parametrize(
    ("option", "found"),
    [
        ({"fast_dev_run": True}, r"trainer\.fast_dev_run is True: .*trainer\.max_steps to a few updates"),
        ({"overfit_batches": 2}, r"trainer\.overfit_batches is 2: .*a manifest of these alone"),
        ({"barebones": True}, r"trainer\.barebones is True"),
        ({"limit_train_batches": 0.5}, r"trainer\.limit_train_batches is 0\.5: .*a whole number of batches"),
    ],
)
def test_options_of_lightning_that_do_not_fit(recipe, option, found):
    recipe.trainer.update(option)
    with pytest.raises(SpeechLMError, match=found):
        training.train(recipe, OneWeight)
    assert not Path(recipe.output).exists()


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("trainer.logger", True, r"trainer\.logger is true, expected false: exp_manager makes the loggers"),
        ("trainer.enable_checkpointing", True, "trainer and exp_manager: .*ModelCheckpoint"),
        ("model.bigram_manifests", 5, r"model\.bigram_manifests is 5, expected a path"),
        ("model.train_ds.x.manifest_filepath", [["a.json", 1], 7], r"model\.train_ds\.x\.manifest_filepath is "),
        (
            "model.a",
            {"d_model": 20, "n_heads": 3},
            r"model\.a\.n_heads is 3, expected a divisor of model\.a\.d_model, .* 20",
        ),
        ("model.a", {"d_model": 20, "n_heads": 0}, r"model\.a\.n_heads is 0, expected a whole number of at least 1"),
    ],
)
def test_keys_with_values_that_cannot_be(recipe, key, value, found):
    OmegaConf.update(recipe, key, value, force_add=True)
    with pytest.raises(SpeechLMError, match=found):
        training.train(recipe, OneWeight)
    assert not Path(recipe.output).exists()


def test_the_bar_asks_for_the_loss_as_often_as_it_is_logged():
    """To ask a GPU after each step would make it wait."""
    asked = []

    class Loss:
        def __float__(self):
            asked.append(trainer.global_step)
            return 1.2345

    trainer = SimpleNamespace(
        global_step=0, log_every_n_steps=10, callback_metrics={"loss": Loss()}, progress_bar_metrics={}, loggers=[],
    )  # fmt: skip
    bar = training.StepProgressBar()
    for trainer.global_step in range(25):
        assert bar.get_metrics(trainer, None)["loss"] == "1.23"
    assert asked == [0, 10, 20]


def test_the_bar_of_a_resumed_run_knows_its_rate():
    trainer = SimpleNamespace(
        global_step=630, log_every_n_steps=10, callback_metrics={}, progress_bar_metrics={}, loggers=[], max_steps=900,
        num_training_batches=float("inf"), accumulate_grad_batches=1, current_epoch=0,
    )  # fmt: skip
    bar = training.StepProgressBar()
    bar._trainer = trainer
    bar.on_train_start(trainer, None)
    bar.on_train_epoch_start(trainer, None)
    for index in (630, 631, 632):
        bar.on_train_batch_end(trainer, None, None, None, index)
    shown = bar.train_progress_bar.format_dict
    assert (shown["n"], shown["initial"], shown["total"]) == (633, 630, 900)
    trainer.current_epoch = 1
    bar.on_train_epoch_start(trainer, None)
    bar.on_train_batch_end(trainer, None, None, None, 0)
    assert bar.train_progress_bar.format_dict["initial"] == 0


class OfTheModel(Callback):
    """Where the model has callbacks, as all of ours have, Lightning puts those of the trainer in another order."""


class OneWeight(ModelPT):
    """Brings a weight from that of its start file towards the numbers of its manifest."""

    seen: dict = {}  # noqa: RUF012  # what the last training did, step by step

    def __init__(self, cfg, trainer=None):
        super().__init__(cfg=cfg, trainer=trainer)
        start = cfg.get("init_from_pretrained")
        value = json.loads(Path(start).read_text())["weight"] if start else 0.0
        self.weight = torch.nn.Parameter(torch.tensor(value))
        type(self).seen = {"lr": [], "batches": [], "steps": []}

    def configure_callbacks(self):
        return [*super().configure_callbacks(), OfTheModel()]

    def training_step(self, batch, batch_idx):
        group = self.trainer.optimizers[0].param_groups[0]
        self.seen["lr"].append(group["lr"])
        self.seen["batches"].append(float(batch))
        self.seen["settings"] = {key: group[key] for key in ("betas", "eps", "weight_decay", "initial_lr")}
        return (self.weight - batch).square().mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen["steps"].append(self.trainer.global_step)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", (self.weight - batch).square().mean().detach())

    def setup_training_data(self, config):
        self._train_dl = Numbers(config.manifest_filepath, endless=True)

    def setup_validation_data(self, config):
        self._validation_dl = Numbers(config.manifest_filepath, endless=False)

    @classmethod
    def list_available_models(cls):
        return []


class Numbers(torch.utils.data.DataLoader):
    def __init__(self, path, endless):
        numbers = [torch.tensor([record["number"]]) for _, record in read_manifest(path)]
        super().__init__(Stream(numbers, endless) if endless else numbers, batch_size=None)


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, numbers, endless):
        self.numbers, self.endless = numbers, endless

    def __iter__(self):
        while True:
            yield from self.numbers


def numbers(path, *values):
    path.parent.mkdir(exist_ok=True, parents=True)
    write_manifest(path, [{"number": value} for value in values])
    return str(path)


@pytest.fixture
def recipe(tmp_path):
    model = {
        "init_from_pretrained": None,
        "train_ds": {
            "manifest_filepath": numbers(tmp_path / "data" / "train.json", 1.0, 2.0, 3.0), "num_workers": 0,
        },
        "validation_ds": {"manifest_filepath": numbers(tmp_path / "data" / "valid.json", 2.0)},
        "optim": {
            "name": "adamw", "lr": 0.1, "betas": [0.9, 0.98], "eps": 1e-6, "weight_decay": 0.01, "sched": POLYNOMIAL,
        },
    }  # fmt: skip
    return tiny_recipe(tmp_path, model, 8, val_check_interval=4)


def train(recipe, **changes):
    """Train with some keys changed, dots written as two underscores; the weight of the output and what was seen."""
    cfg = recipe.copy()
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, merge=False, force_add=True)
    output = training.train(cfg, lambda model, trainer: OneWeight(cfg=model, trainer=trainer))
    return read_nemo(output).weights["weight"].item(), OneWeight.seen


# --- a run is continued by its own command only ----------------------------------------------------------------


def refused(recipe, *expected, **changes):
    runs = Path(recipe.exp_manager.exp_dir)

    def state():  # of the checkpoints, and of the logs of earlier runs, which exp_manager moves
        paths = [*runs.rglob("checkpoints/*"), *runs.rglob("run_*")]
        return sorted((path, path.stat().st_mtime_ns) for path in paths)

    before = state()
    with pytest.raises(InputError) as error:
        train(recipe, **changes)
    for text in (*expected, "name=", "accept_changes=true"):
        assert text in str(error.value), (text, str(error.value))
    assert state() == before
    return str(error.value)


def test_another_start_file_is_not_answered_with_the_first_ones_weights(recipe, tmp_path):
    for name, weight in (("a", -5.0), ("b", 50.0)):
        (tmp_path / f"{name}.nemo").write_text(json.dumps({"weight": weight}))
    first, _ = train(recipe, model__init_from_pretrained=str(tmp_path / "a.nemo"))
    assert first < 0
    b = {"model__init_from_pretrained": str(tmp_path / "b.nemo"), "output": str(tmp_path / "b_out.nemo")}
    message = refused(recipe, "model.init_from_pretrained: the content of", "b.nemo", "a.nemo", **b)
    assert not (tmp_path / "b_out.nemo").exists()
    assert len(message.splitlines()) == 3  # that one difference, what is wrong before it, the way out behind it
    second, _ = train(recipe, name="other", **b)
    assert second > 40


def test_other_data_are_refused_by_content_not_by_path(recipe, tmp_path):
    first, _ = train(recipe)
    numbers(tmp_path / "data" / "train.json", 1.0, 2.0, 3.5)
    refused(recipe, "model.train_ds.manifest_filepath: the content of", "train.json", overwrite=True)
    numbers(tmp_path / "data" / "train.json", 1.0, 2.0, 3.0)
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "runs").rename(tmp_path / "moved_runs")
    moved = {
        "model__train_ds__manifest_filepath": str(tmp_path / "moved" / "train.json"),
        "model__validation_ds__manifest_filepath": str(tmp_path / "moved" / "valid.json"),
        "exp_manager__exp_dir": str(tmp_path / "moved_runs"),
        "output": str(tmp_path / "copy.nemo"),
    }
    again, seen = train(recipe, **moved)
    assert again == first
    assert seen["lr"] == []


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("seed", 1, "seed: 0 before, 1 now"),
        ("model__optim__lr", 0.2, "model.optim.lr: 0.1 before, 0.2 now"),
        ("model__optim__betas", [0.8, 0.98], "model.optim.betas: [0.9, 0.98] before, [0.8, 0.98] now"),
        ("model__train_ds__batch_size", 4, "model.train_ds.batch_size: not set before, 4 now"),
        ("trainer__accumulate_grad_batches", 2, "trainer.accumulate_grad_batches): 1 before, 2 now"),
        ("trainer__gradient_clip_val", 1.0, "trainer.gradient_clip_val: not set before, 1.0 now"),
        ("exp_manager__checkpoint_callback_params__mode", "max", 'mode: "min" before, "max" now'),
    ],
)
def test_other_settings_are_refused_by_name(recipe, key, value, line):
    train(recipe)
    refused(recipe, line, overwrite=True, trainer__max_steps=12, **{key: value})


def test_automatic_precision_stays_when_a_run_moves_to_another_kind_of_processor(recipe, monkeypatch):
    recipe.trainer.precision = "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for fast, steps in ((False, [*range(1, 9)]), (True, [*range(9, 13)])):
        monkeypatch.setattr(trainer_module, "multiplies_bfloat16", lambda fast=fast: fast)
        _, seen = train(recipe, trainer__max_steps=steps[-1], overwrite=True)
        assert seen["steps"] == steps
        (record,) = Path(recipe.exp_manager.exp_dir).rglob("run.json")
        assert json.loads(record.read_text())["settings"]["trainer.precision"] == "32-true"
    train(recipe, name="new", overwrite=True)
    (record,) = Path(recipe.exp_manager.exp_dir).glob("new/**/run.json")
    assert json.loads(record.read_text())["settings"]["trainer.precision"] == "bf16-mixed"


def test_settings_that_decide_nothing_may_change(recipe, tmp_path):
    first, _ = train(recipe)
    other = str(tmp_path / "other.nemo")
    free = {
        "trainer__val_check_interval": 2, "trainer__log_every_n_steps": 7, "model__train_ds__num_workers": 1,
        "trainer__enable_model_summary": True, "exp_manager__create_tensorboard_logger": True,
    }  # fmt: skip
    again, seen = train(recipe, output=other, **free)
    assert again == first
    assert seen["lr"] == []


def test_checkpoints_of_an_unknown_run_are_not_continued_in_silence(recipe, tmp_path):
    first, _ = train(recipe)
    (record,) = tmp_path.rglob("run.json")
    record.unlink()
    refused(recipe, "there is no run.json", overwrite=True)
    again, _ = train(recipe, overwrite=True, accept_changes=True)
    assert again == first
    train(recipe, overwrite=True, accept_changes=True, trainer__max_steps=10)
    assert "there is no run.json" in record.read_text()
    train(recipe, overwrite=True, trainer__max_steps=12)  # it is known from then on


def test_best_checkpoints_of_another_run_do_not_enter_a_run_that_begins(recipe, tmp_path):
    train(recipe, save="best")
    (last,) = tmp_path.rglob("*-last.ckpt")
    last.unlink()
    refused(recipe, "seed: 0 before, 1 now", save="best", seed=1, overwrite=True)


def test_accepted_changes_are_followed_and_kept_on_record(recipe, tmp_path):
    train(recipe)
    changed = {"model__optim__betas": [0.5, 0.6], "model__optim__weight_decay": 0.0, "model__optim__lr": 0.4}
    complete = {"overwrite": True, "accept_changes": True}
    with pytest.raises(InputError, match=r"complete at step 8.*nothing would be trained"):
        train(recipe, **complete, **changed)
    _, seen = train(recipe, **complete, **changed, trainer__max_steps=16)
    assert seen["settings"] == {"betas": (0.5, 0.6), "eps": 1e-6, "weight_decay": 0.0, "initial_lr": 0.4}
    assert seen["lr"] == pytest.approx(rates(POLYNOMIAL, 16, lr=0.4)[8:], abs=1e-12)
    (record,) = tmp_path.rglob("run.json")
    (accepted,) = json.loads(record.read_text())["accepted"]
    assert accepted["changes"][0] == "model.optim.lr: 0.1 before, 0.4 now"
    refused(recipe, "model.optim.lr: 0.4 before, 0.1 now", overwrite=True, trainer__max_steps=16)
    train(recipe, **complete, **{**changed, "model__optim__lr": 0.3}, trainer__max_steps=17)
    first, second = json.loads(record.read_text())["accepted"]
    assert (first["changes"], second["changes"]) == (accepted["changes"], ["model.optim.lr: 0.4 before, 0.3 now"])


# --- a longer run has the learning rates of one that was begun so ----------------------------------------------


def rates(schedule, steps, lr=0.1):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(()))], lr=lr)
    scheduler = prepare_lr_scheduler(optimizer, {**schedule, "max_steps": steps})["scheduler"]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


SCHEDULES = [
    POLYNOMIAL,
    TRI_STAGE,
    {"name": "CosineAnnealing", "warmup_steps": 2, "min_lr": 0.001},
    {"name": "WarmupHoldAnnealLinear", "warmup_ratio": 0.25, "hold_ratio": 0.25, "min_lr": 0.0},
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["name"])
def test_rates_follow_a_larger_max_steps(recipe, schedule):
    _, seen = train(recipe, model__optim__sched=schedule)
    assert seen["lr"] == pytest.approx(rates(schedule, 8), abs=1e-12)
    longer = {"trainer__max_steps": 20, "overwrite": True, "model__optim__sched": schedule}
    _, seen = train(recipe, **longer)
    assert seen["steps"] == list(range(9, 21))
    assert seen["lr"] == pytest.approx(rates(schedule, 20)[8:], abs=1e-12)


def test_a_run_in_two_parts_has_the_weights_of_one(recipe, tmp_path):
    whole, _ = train(recipe, trainer__max_steps=9, name="whole", output=str(tmp_path / "whole.nemo"))

    train_until(recipe, 6, trainer__max_steps=9)
    parts, seen = train(recipe, trainer__max_steps=9)
    assert seen["steps"] == [7, 8, 9]
    assert parts == whole


def test_a_smaller_max_steps_is_refused(recipe):
    train(recipe)
    with pytest.raises(InputError, match=r"at step 8, and trainer.max_steps=5 ends before that; give at least 8"):
        train(recipe, overwrite=True, trainer__max_steps=5)


def test_patience_is_the_commands(recipe):
    stopping = {
        "exp_manager__create_early_stopping_callback": True,
        "exp_manager__early_stopping_callback_params": {"monitor": "val_loss", "min_delta": 1e9, "patience": 1},
        "trainer__max_steps": 40,
    }
    train(recipe, **stopping)
    assert OneWeight.seen["steps"][-1] == 8  # the first is the best, the second is no better
    stopping["exp_manager__early_stopping_callback_params"]["patience"] = 4
    train(recipe, **stopping, overwrite=True)
    assert OneWeight.seen["steps"][-1] == 8 + 3 * 4


def test_a_run_without_patience_goes_on_after_a_better_figure(recipe):
    stopping = {
        "exp_manager__create_early_stopping_callback": True,
        "exp_manager__early_stopping_callback_params": {"monitor": "val_loss", "min_delta": 0.0, "patience": 0},
    }
    train(recipe, **stopping)
    train(recipe, **stopping, overwrite=True, trainer__max_steps=12)
    assert OneWeight.seen["steps"] == [9, 10, 11, 12]


def test_an_update_has_all_its_batches_after_a_checkpoint_inside_one(recipe, monkeypatch):
    accumulating = {"trainer__accumulate_grad_batches": 3, "trainer__val_check_interval": 4, "trainer__max_steps": 4}
    real = OneWeight.training_step

    def killed(self, batch, batch_idx):
        if len(self.seen["batches"]) == 5:
            raise RuntimeError("killed")
        return real(self, batch, batch_idx)

    # killed after the fifth batch: the checkpoint of the validation has one update and one batch of the next
    with monkeypatch.context() as patch:
        patch.setattr(OneWeight, "training_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(recipe, **accumulating)
    _, seen = train(recipe, **accumulating)
    assert seen["steps"] == [1, 1, 2, 2, 2, 3, 3, 3, 4]


# --- an output is written at the end of training only ----------------------------------------------------------


class StopAt(Callback):
    """Ends a training as a limit of time does, at a certain step."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        if trainer.global_step == self.steps:
            (saver,) = [callback for callback in trainer.callbacks if isinstance(callback, Saver)]
            saver.deadline = 0.0


def train_until(recipe, steps, **changes):
    """Train until the limit of time ends it at a step; returns the error's message."""
    real = training.Trainer

    def trainer(**options):
        return real(**{**options, "callbacks": [*options["callbacks"], StopAt(steps)]})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nemo_speechlm.training.trainer.Trainer", trainer)
        with pytest.raises(Unfinished) as error:
            train(recipe, exp_manager__max_time_per_run="00:01:00:00", **changes)
    return str(error.value)


def test_a_run_whose_time_is_over_writes_no_output_and_goes_on(recipe, tmp_path):
    message = train_until(recipe, 3)
    assert "step 3 of 8" in message
    assert "-last.ckpt" in message
    assert "same command" in message
    assert not (tmp_path / "out.nemo").exists()
    weight, seen = train(recipe, exp_manager__max_time_per_run="00:01:00:00")
    assert seen["steps"] == [4, 5, 6, 7, 8]
    assert weight is not None


def test_a_run_that_is_stopped_is_not_complete(recipe, tmp_path, monkeypatch):
    real = OneWeight.training_step

    def stop(self, batch, batch_idx):
        self.trainer.should_stop = True
        return real(self, batch, batch_idx)

    monkeypatch.setattr(OneWeight, "training_step", stop)
    with pytest.raises(Unfinished, match="stopped at step 1 of 8"):
        train(recipe)
    assert not (tmp_path / "out.nemo").exists()


def test_what_thresholds_have_ended_goes_on_with_others(recipe):
    """The figure starts near 4 and falls: below 1000 is a threshold that the first validation reaches."""
    params = {"monitor": "val_loss", "min_delta": 0.0, "patience": 3, "stopping_threshold": 1000.0}
    stopping = {
        "exp_manager__create_early_stopping_callback": True,
        "exp_manager__early_stopping_callback_params": params,
        "trainer__max_steps": 12,
    }
    weight, seen = train(recipe, **stopping)
    assert seen["steps"][-1] == 4
    again, seen = train(recipe, **stopping, overwrite=True)
    assert seen["steps"] == []
    assert again == weight
    params["patience"] = 4
    assert train(recipe, **stopping, overwrite=True)[1]["steps"] == []
    params["stopping_threshold"] = None
    assert train(recipe, **stopping, overwrite=True)[1]["steps"] == [*range(5, 13)]


@pytest.mark.parametrize(("save", "least"), [("best", None), ("last", None), ("last", 3)])
def test_early_stopping_is_an_end(recipe, save, least):
    stopping = {
        "trainer__min_steps": least,
        "exp_manager__create_early_stopping_callback": True,
        "exp_manager__early_stopping_callback_params": {"monitor": "val_loss", "min_delta": 1e9, "patience": 1},
        "trainer__max_steps": 40,
        "save": save,
    }
    weight, seen = train(recipe, **stopping)
    assert seen["steps"][-1] == 8
    again, seen = train(recipe, **stopping, overwrite=True)
    assert seen["steps"] == []
    assert again == weight
    changed = {"model__optim__lr": 0.2, "accept_changes": True, "overwrite": True}
    with pytest.raises(
        InputError, match=r"complete at step 8: .* give a larger exp_manager\.early_stopping.*patience"
    ):
        train(recipe, **stopping, **changed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer__max_steps": 0}, "trainer.max_steps is 0, expected a whole number of at least 1"),
        ({"trainer__max_steps": -1}, "training has no end"),
        (
            {"exp_manager__checkpoint_callback_params__every_n_train_steps": 2},
            "every_n_train_steps is set: such a checkpoint would count as one with the val_loss of",
        ),
        ({"exp_manager__name": "best_val_loss"}, "best_val_loss: the run's folder has val_loss in its name"),
        ({"trainer__max_steps": 2.5}, "trainer.max_steps is 2.5"),
        ({"trainer__max_time": "00:01:00:00"}, "exp_manager.max_time_per_run"),
        ({"exp_manager__max_time_per_run": "1h"}, "DD:HH:MM:SS"),
        (
            {
                "exp_manager__max_time_per_run": "00:01:00:00",
                "exp_manager__checkpoint_callback_params__save_last": False,
            },
            "nothing to go on from",
        ),
    ],
)
def test_lengths_that_are_none(recipe, changes, message):
    with pytest.raises(SpeechLMError) as error:
        train(recipe, **changes)
    assert message in str(error.value)

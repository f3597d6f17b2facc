import errno
import json
import multiprocessing
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from nemo_speechlm.data.pretraining.batch import PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.data.recognition.batch import TranscribedBatch
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.pretraining import PlaceInData
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.training.step_guards import (
    BatchSeeds,
    MonitorCheck,
    SkipNonFinite,
    batch_ids,
    explain_monitor,
    step_guards,
)


class Batch(TranscribedBatch):
    """One tensor with an id."""


class Numbered:
    """Endless batches whose content is their number in the run; resumable."""

    def __init__(self, bad=(), size=None):
        self.next, self.bad, self.size = 0, set(bad), size

    def __iter__(self):
        while self.size is None or self.next < self.size:
            number = self.next
            self.next += 1
            generator = torch.Generator().manual_seed(number)
            x = torch.randn(4, 3, generator=generator)
            yield Batch((torch.full_like(x, torch.nan) if number in self.bad else x,), (f"e{number}",))

    def state_dict(self):
        return {"next": self.next - 1}  # Lightning has fetched one batch more than it has trained on

    def load_state_dict(self, state):
        self.next = state["next"]


class Tiny(LightningModule):
    """Draws from every source of random numbers that our models use."""

    def __init__(self, fused=False, weight_decay=0.1):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.fused, self.weight_decay = fused, weight_decay
        self.augmentation = nn.Module()
        self.augmentation._rng = random.Random()  # as in NeMo's SpecCutout
        self.drawn = []

    def training_step(self, batch, batch_idx):
        self.drawn.append([random.random(), np.random.rand(), float(torch.rand(())), self.augmentation._rng.random()])  # noqa: NPY002
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        torch.rand(7), random.random()
        self.log("val_loss", self.net(batch[0]).square().mean(), batch_size=4)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=self.weight_decay, fused=self.fused)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), "interval": "step"},
        }


def trainer_of(folder, *callbacks, steps, **options):
    options = {"accumulate_grad_batches": 1, "gradient_clip_val": 1.0, "limit_val_batches": 0, **options}
    return Trainer(
        accelerator="cpu", devices=1, max_steps=steps, logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=list(callbacks), default_root_dir=folder,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks), **options,
    )  # fmt: skip


def fit(folder, data, *callbacks, steps, model=None, resume=None, validate=False, **options):
    model = model or Tiny()
    options |= {"limit_val_batches": 2, "val_check_interval": 2, "check_val_every_n_epoch": None} if validate else {}
    trainer = trainer_of(folder, *callbacks, steps=steps, **options)
    trainer.fit(model, data, Numbered(size=2) if validate else None, ckpt_path=resume)
    return model, trainer


def equal(some, others):
    return all(
        torch.equal(a, b) for a, b in zip(some.state_dict().values(), others.state_dict().values(), strict=True)
    )


# --- random numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "accumulate"), [("after a step", 1), ("after validation", 1), ("after validation", 2)]
)
def test_a_resumed_run_draws_and_learns_what_the_undisturbed_one_does(tmp_path, when, accumulate):
    validate = when == "after validation"
    options = {"accumulate_grad_batches": accumulate, "validate": validate}
    whole, _ = fit(tmp_path, Numbered(), BatchSeeds(5), steps=6, **options)
    keep = {"monitor": "val_loss"} if validate else {"every_n_train_steps": 4}
    saver = ModelCheckpoint(tmp_path / "c", save_last=True, **keep)
    before, _ = fit(tmp_path, Numbered(), BatchSeeds(5), saver, steps=4, **options)
    torch.manual_seed(99)
    random.seed(99)
    resumed, _ = fit(tmp_path, Numbered(), BatchSeeds(5), steps=6, resume=saver.last_model_path, **options)
    assert before.drawn + resumed.drawn == whole.drawn
    assert len(whole.drawn) == 6 * accumulate
    assert len({number for row in whole.drawn for number in row}) == 4 * len(whole.drawn), "none repeats"
    assert equal(resumed, whole)


def test_validation_does_not_disturb_training(tmp_path):
    plain, _ = fit(tmp_path, Numbered(), BatchSeeds(5), steps=5)
    validated, _ = fit(tmp_path, Numbered(), BatchSeeds(5), steps=5, validate=True)
    assert validated.drawn == plain.drawn
    assert equal(validated, plain)


def test_seeds_and_processes_differ():
    def draws(seed, number, rank):
        trainer = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=number), global_rank=rank)
        BatchSeeds(seed).on_train_batch_start(trainer, None, None, 0)
        return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002

    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2**32 - 1, 10**9, 1023)]
    assert len({number for key in keys for number in draws(*key)}) == 3 * len(keys)
    assert draws(0, 1, 0) == draws(0, 1, 0)


# --- losses and gradients that are not finite ------------------------------------------------------------------------


class LeaveOut(Callback):
    """What skipping must amount to: the optimizer is not called, batch norms forget the batch."""

    def __init__(self, updates):
        self.updates = updates

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.kept = [buffer.clone() for buffer in pl_module.net[1].buffers()]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step in self.updates:
            optimizer.zero_grad()
            for buffer, kept in zip(pl_module.net[1].buffers(), self.kept, strict=True):
                buffer.copy_(kept)


def records(folder):
    return [json.loads(line) for line in (folder / "skipped_updates_rank0.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("fused", [False, True])
def test_an_update_with_nan_leaves_everything_as_it_was(tmp_path, fused):
    """Fused optimizers heed the flag on the device; others are not given gradients."""
    seeds, guard = BatchSeeds(1), SkipNonFinite(3)
    expected, _ = fit(tmp_path, Numbered(), BatchSeeds(1), LeaveOut([2, 3]), steps=6, model=Tiny(fused))
    model, trainer = fit(tmp_path, Numbered(bad=[2, 3]), seeds, guard, steps=6, model=Tiny(fused))
    assert equal(model, expected)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert guard.skipped == 2
    assert trainer.callback_metrics["skipped_updates"] == 2
    state = trainer.optimizers[0].state[model.net[0].weight]
    assert float(state["step"]) == 4
    assert records(tmp_path) == [
        {"update": n, "loss_is_finite": False, "lost": False, "batches": [{"batch": n, "ids": [f"e{n}"]}]}
        for n in (2, 3)
    ]


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch, caplog):
    """It warns once, and the updates are skipped all the same."""
    write = Path.open

    def full(path, *arguments, **options):
        if path.name.startswith("skipped_updates"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    guard = SkipNonFinite(3)
    model, trainer = fit(tmp_path, Numbered(bad=[1, 2, 4]), guard, steps=6)
    assert trainer.global_step == 6
    assert guard.skipped == 3
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    told = [message for message in caplog.messages if "not listed" in message]
    assert told == [
        f"{tmp_path / 'skipped_updates_rank0.jsonl'}: No space left on device; skipped updates are not listed"
    ]


def test_a_gradient_alone_may_be_bad(tmp_path):
    class Rooted(Tiny):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            # the square root's gradient at 0 is infinite
            return loss + (self.net[0].weight[0, 0] * 0).abs().sqrt() if batch_idx == 1 else loss

    model, _ = fit(tmp_path, Numbered(), SkipNonFinite(), steps=3, model=Rooted())
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    (record,) = records(tmp_path)
    assert record["update"] == 1
    assert record["loss_is_finite"]


def test_accumulated_gradients_are_skipped_together(tmp_path):
    guard = SkipNonFinite()
    model, _ = fit(tmp_path, Numbered(bad=[2]), guard, steps=3, accumulate_grad_batches=2)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    (record,) = records(tmp_path)
    assert record["update"] == 1
    assert record["batches"] == [{"batch": 2, "ids": ["e2"]}, {"batch": 3, "ids": ["e3"]}]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bad", [range(3, 6), range(1, 4)])
def test_too_many_in_a_row_end_the_training(tmp_path, bad, fused):
    """Also where the last updates are those."""
    with pytest.raises(SpeechLMError, match=r"3 updates in a row .*updates=3.*skipped_updates_rank0.jsonl"):
        fit(tmp_path, Numbered(bad=bad), SkipNonFinite(3), steps=6, model=Tiny(fused))
    assert len(records(tmp_path)) == 3
    fit(tmp_path, Numbered(bad=[0, 1, 3, 4]), SkipNonFinite(3), steps=6)


def test_the_count_goes_on_after_a_resume(tmp_path):
    saver = ModelCheckpoint(tmp_path / "c", save_last=True, every_n_train_steps=2)
    fit(tmp_path, Numbered(bad=[1]), SkipNonFinite(2), saver, steps=2)
    guard = SkipNonFinite(2)
    _, trainer = fit(tmp_path, Numbered(bad=[2]), guard, steps=4, resume=saver.last_model_path)
    assert guard.skipped == 2
    assert trainer.callback_metrics["skipped_updates"] == 2


def test_half_precision_searches_its_scale_undisturbed(tmp_path):
    """Overflowing gradients are GradScaler's, until its scale explains them no longer."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    guard = SkipNonFinite()
    trainer = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=scaler), global_step=0, default_root_dir=tmp_path, global_rank=0
    )
    model = Tiny()
    model.log = lambda *_: None
    guard.on_train_start(trainer, model)
    weight = model.net[0].weight
    for scale, skipped in ((4.0, 0), (0.5, 1)):
        scaler.update(scale) if scaler._scale is not None else scaler.scale(torch.zeros(()))
        scaler.update(scale)
        weight.grad = torch.full_like(weight, torch.inf)
        guard.on_before_backward(trainer, model, torch.tensor(1.0))
        guard.on_before_optimizer_step(trainer, model, torch.optim.SGD([weight], 0.1))
        guard._settle()
        assert guard.skipped == skipped
        assert (weight.grad is None) == bool(skipped)


class BadInSecond(Numbered):
    """A batch that is bad in the second of two processes."""

    def __iter__(self):
        self.bad = {2} if torch.distributed.get_rank() == 1 else set()
        return super().__iter__()


class LossAlone(Tiny):
    """Where its batch is bad, the loss is not finite, while all gradients are."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if not loss.isnan():
            return loss
        return sum(parameter.sum() for parameter in self.parameters()) * 0 + torch.nan


def train_in_two(folder):
    os.setsid()
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_steps=4, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[SkipNonFinite()], default_root_dir=folder, limit_val_batches=0,
        enable_checkpointing=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(LossAlone(), BadInSecond())


def test_two_processes_skip_the_same_update(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=train_in_two, args=(tmp_path,))
    process.start()
    process.join(60)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
    assert process.exitcode == 0
    for rank in (0, 1):
        (line,) = (tmp_path / f"skipped_updates_rank{rank}.jsonl").read_text().splitlines()
        record = json.loads(line)
        assert record["update"] == 2
        assert record["loss_is_finite"] == (rank == 0)


def test_the_recipes_keys():
    guards = step_guards(OmegaConf.create({"seed": 3, "max_skipped_updates": 4}))
    assert [type(guard) for guard in guards] == [MonitorCheck, BatchSeeds, SkipNonFinite, PlaceInData]
    assert guards[1].seed == 3
    assert guards[2].most_in_a_row == 4
    for value in (0, "ten", True):
        with pytest.raises(SpeechLMError, match="max_skipped_updates is"):
            step_guards(OmegaConf.create({"seed": 3, "max_skipped_updates": value}))


def test_ids_of_batches():
    one = torch.zeros(1)
    batch = PretrainBatch(SpeechBatch(one, one, one, one, ("s:1", "s:2")), TextBatch(one, one, one, one, ("t:9",)))
    assert batch_ids(batch) == ["s:1", "s:2", "t:9"]
    assert batch_ids(PretrainBatch(text=batch.text)) == ["t:9"]
    assert batch_ids([one, one]) == []
    transcribed = TranscribedBatch((one, one, one, one), ("a.wav",))
    moved = transcribed.to(torch.device("cpu"), non_blocking=True)
    assert batch_ids(moved) == ["a.wav"]
    first, _, _, _ = moved
    assert torch.equal(first, one)


# --- figures to monitor ----------------------------------------------------------------------------------------------


def check(monitor, mode, metrics, names=None, kind=ModelCheckpoint, data=(1,)):
    model = SimpleNamespace(
        validation_metrics=lambda: metrics,
        training_metrics=lambda: ("train_loss", "lr"),
        _validation_dl=data,
        _validation_names=names,
    )
    trainer = SimpleNamespace(limit_val_batches=1.0, callbacks=[kind(monitor=monitor, mode=mode), Callback()])
    MonitorCheck().on_fit_start(trainer, model)


def test_monitors_must_be_logged():
    metrics = {"val_loss": "min", "val_bleu": "max"}
    check("val_bleu", "max", metrics)
    for name in ("train_loss", "lr", "skipped_updates", "step", "epoch", None):
        check(name, "min", metrics)
        check(name, "max", metrics)
    check("dev_val_bleu", "max", metrics, ["dev_", "other_"])
    with pytest.raises(SpeechLMError, match="'dev_val_bleu', which this run does not log"):
        check("dev_val_bleu", "max", metrics, ["dev_"])
    with pytest.raises(
        SpeechLMError,
        match=r"'val_cer', which this run does not log. Its validation logs: val_loss \(min\), val_bleu \(max\); its "
        r"training: train_loss, lr, skipped_updates. Set exp_manager.checkpoint_callback_params.monitor",
    ):
        check("val_cer", "min", metrics)
    with pytest.raises(SpeechLMError, match=r"mode is 'min', but the best val_bleu is the highest one; .*mode=max"):
        check("val_bleu", "min", metrics)
    with pytest.raises(SpeechLMError, match="Its validation logs: none"):
        check("val_loss", "min", {})


@pytest.mark.parametrize("monitor", ["foo", "val", 5])
def test_monitors_of_nothing(monitor):
    for kind, key in ((ModelCheckpoint, "checkpoint"), (EarlyStopping, "early_stopping")):
        message = rf"{kind.__name__}: monitor is {monitor!r}, .*val_loss \(min\).*{key}_callback_params.monitor"
        with pytest.raises(SpeechLMError, match=message):
            check(monitor, "min", {"val_loss": "min"}, kind=kind)


def test_stopping_early_needs_a_figure():
    for monitor in (None, "step"):
        with pytest.raises(SpeechLMError, match=r"early_stopping_callback_params\.monitor"):
            check(monitor, "min", {"val_loss": "min"}, kind=EarlyStopping)


def test_stopping_early_needs_validation_data():
    with pytest.raises(SpeechLMError, match=r"without validation data val_loss is never logged.*validation_ds"):
        check("val_loss", "min", {"val_loss": "min"}, kind=EarlyStopping, data=None)
    check("train_loss", "min", {"val_loss": "min"}, kind=EarlyStopping, data=None)
    check("val_loss", "min", {"val_loss": "min"}, data=None)


def test_what_lightning_says_of_a_missing_figure_is_told_in_a_line(tmp_path):
    for callback, kind in (
        (ModelCheckpoint(tmp_path, monitor="foo"), MisconfigurationException),
        (EarlyStopping("foo"), RuntimeError),
    ):
        options = {"enable_checkpointing": True} if isinstance(callback, ModelCheckpoint) else {}
        trainer = tiny_trainer(2, val_check_interval=1, callbacks=[callback], **options)
        with pytest.raises(kind) as found:
            trainer.fit(BoringModel(), DataLoader(RandomDataset(32, 4)), DataLoader(RandomDataset(32, 4)))
        told = explain_monitor(found.value)
        assert isinstance(told, SpeechLMError)
        assert "foo" in str(told)
        assert "\n" not in str(told)
    assert explain_monitor(RuntimeError("something else")) is None


@pytest.mark.parametrize(("loss", "lost", "in_a_row"), [(1.0, True, 0), (torch.nan, True, 1), (torch.nan, False, 1)])
def test_a_lost_batch_excuses_no_loss_that_is_not_finite(tmp_path, loss, lost, in_a_row):
    guard, model = SkipNonFinite(), Tiny()
    loop = SimpleNamespace(total_batch_idx=0)
    trainer = SimpleNamespace(
        precision_plugin=None, global_step=0, default_root_dir=tmp_path, global_rank=0, fit_loop=loop
    )
    model.log = lambda *_: None
    guard.on_train_start(trainer, model)
    guard.on_train_batch_start(trainer, model, PretrainBatch(stand_in=lost), 0)
    guard.on_before_backward(trainer, model, torch.tensor(loss))
    guard.on_before_optimizer_step(trainer, model, torch.optim.SGD(model.parameters(), 0.1))
    guard._settle()
    assert (guard.skipped, guard.in_a_row) == (1, in_a_row)
    assert [record["lost"] for record in records(tmp_path)] == [not in_a_row]

"""What a checkpoint may restore; whole trainings are in test_training.py."""

import copy
import errno
import os
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau, StepLR

from nemo_speechlm.training import run_record
from nemo_speechlm.training.continuation import Continuation, begin_with_whole_update, put_settings_into
from nemo_speechlm.training.run_record import BATCHES_PER_UPDATE, RunRecord


def optimizer(**settings):
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(1))]},
        {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 4.0},
    ]
    return torch.optim.AdamW(groups, **{"lr": 2.0, **settings})


def train(opt, scheduler, steps):
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in opt.param_groups])
        for group in opt.param_groups:
            group["params"][0].grad = torch.full((1,), 0.1)
        opt.step()
        scheduler.step()
    return rates


def checkpoint_of(opt, scheduler):
    return copy.deepcopy({"optimizer_states": [opt.state_dict()], "lr_schedulers": [scheduler.state_dict()]})


def restore(checkpoint, opt, scheduler):
    put_settings_into(checkpoint, [opt], [scheduler])
    opt.load_state_dict(checkpoint["optimizer_states"][0])
    scheduler.load_state_dict(checkpoint["lr_schedulers"][0])


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (lambda o: StepLR(o, 3, gamma=0.5), lambda o: StepLR(o, 4, gamma=0.1)),
        (lambda o: ExponentialLR(o, 0.9), lambda o: ExponentialLR(o, 0.99)),
        (lambda o: StepLR(o, 3), lambda o: LambdaLR(o, lambda step: 1 / (1 + step))),
    ],
)
def test_rates_are_those_of_a_run_with_the_new_schedule(before, now):
    old = optimizer()
    old_schedule = before(old)
    train(old, old_schedule, 10)
    checkpoint = checkpoint_of(old, old_schedule)

    whole = optimizer(lr=3.0)
    expected = train(whole, now(whole), 16)
    resumed = optimizer(lr=3.0)
    schedule = now(resumed)
    restore(checkpoint, resumed, schedule)
    assert train(resumed, schedule, 6) == expected[10:]


def test_settings_are_the_new_ones_and_moments_the_old_ones():
    old = optimizer(betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    schedule = StepLR(old, 100)
    train(old, schedule, 5)
    for group in old.param_groups:
        group["count"] = 7  # as fused optimizers keep their steps
    checkpoint = checkpoint_of(old, schedule)

    new = optimizer(betas=(0.5, 0.6), eps=1e-3, weight_decay=0.0)
    restore(checkpoint, new, StepLR(new, 100))
    for group, before in zip(new.param_groups, old.param_groups, strict=True):
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.6), 1e-3, 0.0)
        assert group["count"] == 7
        state, old_state = new.state[group["params"][0]], old.state[before["params"][0]]
        assert state["step"] == 5
        assert state["exp_avg"].equal(old_state["exp_avg"])


def test_a_plateau_goes_on_from_the_rate_that_it_had_come_to():
    old = optimizer()
    schedule = ReduceLROnPlateau(old, factor=0.5, patience=0)
    for figure in (1.0, 1.0, 1.0):
        schedule.step(figure)
    checkpoint = checkpoint_of(old, schedule)
    new = optimizer(betas=(0.5, 0.6))
    restored = ReduceLROnPlateau(new, factor=0.5, patience=0)
    restore(checkpoint, new, restored)
    assert [group["lr"] for group in new.param_groups] == [0.5, 1.0]
    assert new.param_groups[0]["betas"] == (0.5, 0.6)
    assert restored.best == 1.0


def test_a_schedule_that_is_new_or_gone():
    old = optimizer()
    train(old, StepLR(old, 2), 5)
    checkpoint = {"optimizer_states": [old.state_dict()], "lr_schedulers": []}
    new = optimizer()
    put_settings_into(checkpoint, [new], [])
    new.load_state_dict(checkpoint["optimizer_states"][0])
    assert [group["lr"] for group in new.param_groups] == [2.0, 4.0]


@pytest.mark.parametrize(
    ("completed", "accumulate", "last", "expected"),
    [(12, 1, False, 12), (12, 2, False, 12), (12, 5, False, 10), (7, 2, False, 6), (5, 2, True, 5)],
)
def test_updates_begin_with_their_first_batch(completed, accumulate, last, expected):
    current = {"ready": completed, "started": completed, "processed": completed, "completed": completed}
    total = {name: count + 100 for name, count in current.items()}
    progress = {"current": current, "total": total, "is_last_batch": last}
    begin_with_whole_update({"loops": {"fit_loop": {"epoch_loop.batch_progress": progress}}}, accumulate)
    assert set(current.values()) == {expected}
    assert set(total.values()) == {expected + 100}


def test_an_update_has_the_batches_of_all_devices_of_all_machines():
    trainer = SimpleNamespace(global_rank=0, num_devices=2, num_nodes=3, accumulate_grad_batches=5)
    continuation = Continuation(OmegaConf.create({}))
    continuation.check(trainer)
    assert continuation._record.settings == {BATCHES_PER_UPDATE: 30}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_record_that_cannot_be_written_does_not_end_the_training(tmp_path, monkeypatch, caplog, number):
    """A full disk has an error of its own among those of writing."""

    def fail(path):
        raise OSError(number, os.strerror(number))

    continuation = Continuation(OmegaConf.create({"name": "new"}))
    trainer = SimpleNamespace(
        global_rank=0, num_devices=1, num_nodes=1, accumulate_grad_batches=1,
        checkpoint_callback=SimpleNamespace(dirpath=str(tmp_path)),
    )  # fmt: skip
    continuation.check(trainer)
    RunRecord({"name": "old"}, {}).write(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(run_record, "sync", fail)
        continuation.on_train_start(trainer, None)
    assert [name.name for name in tmp_path.iterdir()] == ["run.json"]
    assert RunRecord.read(tmp_path).settings == {"name": "old"}
    (told,) = [message for message in caplog.messages if "no record" in message]
    assert told.startswith(f"{tmp_path / 'run.json'}: {os.strerror(number)}; ")
    continuation.on_train_start(trainer, None)
    assert RunRecord.read(tmp_path).settings == {BATCHES_PER_UPDATE: 1}

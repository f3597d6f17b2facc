import math
from itertools import pairwise

import pytest
import torch
from nemo.core.optim.lr_scheduler import prepare_lr_scheduler

from nemo_speechlm.models.common.schedules import TriStage


def optimizer(lr=2.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(steps, **options):
    opt = optimizer()
    schedule = TriStage(opt, **options)
    values = []
    for _ in range(steps):
        values.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    return values


def test_three_stages():
    lrs = rates(110, max_steps=100, phase_ratio=(0.1, 0.4, 0.5), init_lr_scale=0.1, final_lr_scale=0.05)
    assert lrs[0] == pytest.approx(0.2)
    assert lrs[5] == pytest.approx(0.2 + 1.8 / 2)
    assert lrs[10:51] == pytest.approx([2.0] * 41)
    assert lrs[75] == pytest.approx(2.0 * math.sqrt(0.05))  # halfway down in the log domain
    assert lrs[100:] == pytest.approx([0.1] * 10)
    assert all(a > b for a, b in pairwise(lrs[50:101]))


def test_no_warmup_and_no_plateau():
    lrs = rates(20, max_steps=10, phase_ratio=(0.0, 0.0, 1.0), final_lr_scale=0.5)
    assert lrs[0] == pytest.approx(2.0)
    assert lrs[10] == pytest.approx(1.0)


def test_by_name_through_nemo():
    config = {"name": "TriStage", "max_steps": 10, "phase_ratio": [0.2, 0.3, 0.5], "init_lr_scale": 0.5}
    schedule = prepare_lr_scheduler(optimizer(), config)["scheduler"]
    assert isinstance(schedule, TriStage)
    assert schedule.get_last_lr() == [1.0]


def test_goes_on_after_a_checkpoint():
    whole = rates(30, max_steps=30)
    opt = optimizer()
    first = TriStage(opt, max_steps=30)
    for _ in range(13):
        opt.step()
        first.step()
    opt2 = optimizer()
    second = TriStage(opt2, max_steps=30)
    second.load_state_dict(first.state_dict())
    opt2.load_state_dict(opt.state_dict())
    assert opt2.param_groups[0]["lr"] == pytest.approx(whole[13])
    opt2.step()
    second.step()
    assert opt2.param_groups[0]["lr"] == pytest.approx(whole[14])


@pytest.mark.parametrize("ratio", [(0.1, 0.4), (0.5, 0.5, 0.5), (-0.1, 0.6, 0.5)])
def test_bad_shares(ratio):
    with pytest.raises(ValueError, match="phase_ratio"):
        TriStage(optimizer(), max_steps=10, phase_ratio=ratio)

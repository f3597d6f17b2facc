"""The average of weights against a loop."""

import pytest
import torch
from torch import nn

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.multitask.average import WeightAverage, in_precision_of


def test_against_a_loop():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage({"layer": layer}, decay=0.5)
    expected = layer[0].weight.detach().clone()
    for n in range(1, 20):
        with torch.no_grad():
            layer[0].weight.normal_()
            layer[1].running_mean.normal_()
        average.update({"layer": layer})
        decay = min(0.5, (n + 1) / (n + 10))
        expected = decay * expected + (1 - decay) * layer[0].weight.detach()
    torch.testing.assert_close(average["layer"][0].weight.data, expected)
    torch.testing.assert_close(average["layer"][1].running_mean, layer[1].running_mean)
    assert int(average.updates) == 19


def test_it_counts_on_where_it_was_saved():
    layer = nn.Linear(1, 1, bias=False)
    whole, first = (WeightAverage({"layer": layer}, decay=0.99) for _ in range(2))
    second = WeightAverage({"layer": nn.Linear(1, 1, bias=False)}, decay=0.99)
    for n in range(6):
        with torch.no_grad():
            layer.weight.fill_(n)
        whole.update({"layer": layer})
        if n < 3:
            first.update({"layer": layer})
        elif n == 3:
            second.load_state_dict(first.state_dict())
        if n >= 3:
            second.update({"layer": layer})
    assert torch.equal(second["layer"].weight, whole["layer"].weight)


def test_a_model_in_bf16_has_an_average_in_fp32():
    """Its steps are a thousandth of what bf16 tells apart. The average of a file made before may be in bf16."""
    layer = nn.Linear(2, 2)
    model = nn.ModuleDict({"layer": layer, "average": WeightAverage({"layer": layer}, decay=0.9999)}).bfloat16()
    average = model["average"]
    saved = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    average.load_state_dict(
        {"updates": torch.tensor(100_000)} | {f"parts.layer.{name}": value.bfloat16() for name, value in saved.items()}
    )
    nn.init.constant_(layer.weight, 2.0)
    for _ in range(1000):
        average.update({"layer": layer})
    assert average["layer"].weight.dtype == torch.float32
    assert average["layer"].weight.tolist() == [[pytest.approx(2 - 0.9999**1000, rel=1e-4)] * 2] * 2
    with in_precision_of(layer):
        assert average["layer"](torch.ones(1, 2)).dtype == torch.bfloat16
    assert average.double()["layer"].weight.dtype == torch.float64


def test_it_stays_in_evaluation_mode_and_learns_nothing():
    average = WeightAverage({"layer": nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))}, decay=0.9)
    model = nn.ModuleDict({"average": average}).train()
    assert model.training
    assert not any(module.training for module in average.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_decay_that_is_none():
    with pytest.raises(SpeechLMError, match=r"model\.average\.decay is 1.5"):
        WeightAverage({}, decay=1.5)

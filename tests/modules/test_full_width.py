"""What bf16 would ruin stays in fp32, in a model that is in bf16 otherwise."""

import torch
from torch import nn

from nemo_speechlm.modules.fast_speech import SinusoidalPositions
from nemo_speechlm.modules.full_width import FullWidth
from nemo_speechlm.modules.phone_loop import PhoneLoop


class Numbers(FullWidth):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(2))
        self.inner = nn.Linear(2, 2)


def test_numbers_keep_their_width():
    model = nn.Sequential(nn.Linear(2, 2), Numbers()).to(torch.bfloat16)
    assert model[0].weight.dtype == torch.bfloat16
    assert model[1].count.dtype == model[1].inner.weight.dtype == torch.float32
    assert model.double()[1].count.dtype == torch.float64
    assert model.half()[1].count.dtype == torch.float64


def test_positions_are_those_of_fp32():
    expected = SinusoidalPositions(16)(1000)
    found = SinusoidalPositions(16).to(torch.bfloat16)(1000)
    assert torch.equal(found, expected)
    assert len(found.unique(dim=0)) == 1000


def test_a_bigram_is_that_of_fp32():
    loop = PhoneLoop(torch.arange(4).unsqueeze(1), min_duration=1)
    bigram = torch.rand(5, 5).log()
    loop.set_bigram(bigram)
    assert torch.equal(loop.to(torch.bfloat16).bigram, bigram)

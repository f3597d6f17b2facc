import pytest
import torch

from nemo_speechlm.losses import unit_prediction


def test_sums_of_bf16_are_exact():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 400, 20, generator=generator).bfloat16()
    units, frames = torch.randint(20, (3, 400), generator=generator), torch.rand(3, 400, generator=generator) < 0.5
    found = unit_prediction(logits, units, frames)
    chosen = logits.double().log_softmax(-1).gather(2, units.unsqueeze(2)).squeeze(2)[frames]
    assert float(found.loss) == pytest.approx(-float(chosen.sum()), rel=1e-6)
    assert int(found.frames) == int(frames.sum())


def test_right_are_frames_that_count_alone():
    says, units = torch.tensor([[2, 0, 1, 3], [4, 4, 4, 4]]), torch.tensor([[2, 0, 0, 3], [4, 1, 4, -1]])
    frames = torch.tensor([[True, False, True, False], [True, True, False, False]])
    found = unit_prediction(torch.nn.functional.one_hot(says, 5).float(), units, frames)
    assert (int(found.correct), int(found.frames)) == (2, 4)

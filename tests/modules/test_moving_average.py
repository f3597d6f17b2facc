import pytest
import torch

from nemo_speechlm.modules.moving_average import follow


def test_the_average_by_hand():
    """Its first steps are long: of 1 - 2/11, 1 - 3/12, ...; then of 1 - decay."""
    average, expected = torch.zeros(3), 0.0
    for number in range(1, 60):
        weights = torch.full((3,), float(number), dtype=torch.bfloat16)
        follow([average], [weights], 0.7, number)
        kept = min(0.7, (number + 1) / (number + 10))
        expected = kept * expected + (1 - kept) * number
        assert average.tolist() == pytest.approx([expected] * 3)
    assert average.dtype == torch.float32

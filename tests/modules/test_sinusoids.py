import torch

from nemo_speechlm.modules.sinusoids import alternating_sinusoids, fairseq_rates, fairseq_sinusoids


def test_fairseqs_by_hand():
    found = fairseq_sinusoids(torch.tensor([2]), 5)
    expected = [torch.sin(torch.tensor(2.0)), torch.sin(torch.tensor(2e-4)), torch.cos(torch.tensor(2.0))]
    torch.testing.assert_close(found[0, :3], torch.stack(expected))
    assert found[0, 4] == 0


def test_fairseqs_with_rates_of_before():
    positions = torch.arange(2, 40)
    assert torch.equal(fairseq_sinusoids(positions, 12), fairseq_sinusoids(positions, 12, fairseq_rates(12)))


def test_alternating_by_hand():
    found = alternating_sinusoids(3, 4, torch.zeros(1, dtype=torch.float64))
    angles = torch.tensor([2.0, 2e-2], dtype=torch.float64)
    torch.testing.assert_close(found[2], torch.stack([angles.sin(), angles.cos()], 1).flatten())


def test_alternating_in_the_type_of_the_states():
    assert alternating_sinusoids(3, 4, torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert alternating_sinusoids(3, 4, torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16

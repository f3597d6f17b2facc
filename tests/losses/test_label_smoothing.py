"""Smoothed cross entropy against its definition."""

import torch

from nemo_speechlm.losses.label_smoothing import smoothed_cross_entropy


def test_against_the_definition():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 7, requires_grad=True), torch.tensor([[0, 6, 1], [3, 1, 1]])
    smoothing = 0.2
    expected = torch.zeros(())
    for row, place in ((0, 0), (0, 1), (1, 0)):
        wanted = torch.full((7,), smoothing / 6)
        wanted[targets[row, place]] = 1 - smoothing
        expected = expected - (wanted * logits[row, place].log_softmax(-1)).sum()
    loss = smoothed_cross_entropy(logits, targets, smoothing, padding=1)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad[0, 2].abs().sum() == 0
    assert logits.grad[0, 0].abs().sum() > 0


def test_low_precision_is_summed_in_full():
    logits = torch.randn(4, 50, 30).bfloat16()
    targets = torch.randint(2, 30, (4, 50))
    loss = smoothed_cross_entropy(logits, targets, 0.1, padding=1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, smoothed_cross_entropy(logits.float(), targets, 0.1, padding=1))

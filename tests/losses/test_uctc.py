"""UCTC against all of its paths."""

import math
from itertools import groupby, product

import pytest
import torch

from nemo_speechlm.losses import UCTCLoss

BLANK = 2


def nll(log_probs, targets):
    """Of all paths through (T, 3) that spell the targets."""
    log_probs, paths = log_probs.tolist(), product(range(3), repeat=len(log_probs))
    spelling = [path for path in paths if [k for k, _ in groupby(path) if k != BLANK] == targets]
    return -math.log(sum(math.exp(sum(log_probs[t][k] for t, k in enumerate(path))) for path in spelling))


@pytest.fixture
def log_probs():
    logits = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    return logits.log_softmax(2).requires_grad_()


def loss(log_probs, frames, targets, lengths):
    given = {"targets": torch.tensor(targets), "target_lengths": torch.tensor(lengths)}
    return UCTCLoss(BLANK)(log_probs=log_probs, input_lengths=torch.tensor(frames), **given)


def test_per_character_ends_of_sentences_included(log_probs):
    found = loss(log_probs, [5, 4, 3], [[0, 1, 1], [1, 0, 0], [0, 0, 0]], [3, 1, 0])
    expected = nll(log_probs[0], [0, 1, 1]) + nll(log_probs[1, :4], [1]) + nll(log_probs[2, :3], [])
    assert found.item() == pytest.approx(expected / (4 + 3), rel=1e-5)


def test_a_sentence_without_a_path_counts_as_zero_and_spoils_no_gradient(log_probs):
    """Two equal characters need a blank between them."""
    found = loss(log_probs, [5, 2, 1], [[0, 1], [1, 1], [0, 1]], [2, 2, 2])
    assert found.item() == pytest.approx(nll(log_probs[0], [0, 1]) / (6 + 3), rel=1e-5)
    found.backward()
    assert log_probs.grad.isfinite().all()
    assert log_probs.grad[0].any()
    assert not log_probs.grad[1:].any()

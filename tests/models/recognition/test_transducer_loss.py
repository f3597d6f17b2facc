"""NeMo's RNN-T loss by our lattice: the same values, gradients and reductions."""

import pytest
import torch
from nemo.collections.asr.losses.rnnt import RNNTLoss

from nemo_speechlm.models.recognition import transducer_loss as module
from nemo_speechlm.models.recognition.transducer_loss import OurLattice, numba_compiles, use_our_lattice

FRAMES, TARGETS = torch.tensor([9, 6, 4]), torch.tensor([4, 0, 5])


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    tokens = torch.randint(0, 7, (3, 6)).masked_fill(torch.arange(6) >= TARGETS.unsqueeze(1), 0)
    return torch.randn(3, 10, 7, 8, requires_grad=True), tokens


@pytest.mark.parametrize("name", ["default", "pytorch"])
@pytest.mark.parametrize("reduction", ["mean_batch", "mean_volume", None])
def test_equals_nemos(inputs, name, reduction):
    logits, tokens = inputs
    found = []
    for ours in (False, True):
        loss = RNNTLoss(num_classes=7, reduction=reduction, loss_name=name)
        if ours:
            use_our_lattice(loss)
            assert isinstance(loss._loss, OurLattice)
        acts = logits[:, :, :6].log_softmax(-1)
        value = loss(log_probs=acts, targets=tokens[:, :5], input_lengths=FRAMES, target_lengths=TARGETS)
        found.append((value, *torch.autograd.grad(value.sum(), logits)))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_more_places_than_targets(inputs):
    """Without fused batches, NeMo's joint has a place for each padded target."""
    logits, tokens = inputs
    loss = RNNTLoss(num_classes=7, reduction=None)
    use_our_lattice(loss)
    wide = loss(log_probs=logits, targets=tokens, input_lengths=FRAMES, target_lengths=TARGETS)
    narrow = loss(log_probs=logits[:, :, :6], targets=tokens[:, :5], input_lengths=FRAMES, target_lengths=TARGETS)
    torch.testing.assert_close(wide, narrow)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_name": "default", "loss_kwargs": {"fastemit_lambda": 0.01}},
        {"loss_name": "tdt_pytorch", "loss_kwargs": {"durations": [0, 1], "sigma": 0.0, "omega": 0.0}},
    ],
)
def test_other_losses_stay_nemos(options):
    loss = RNNTLoss(num_classes=7, **options)
    before = loss._loss
    use_our_lattice(loss)
    assert loss._loss is before


def test_our_lattice_computes_where_numba_cannot(inputs, monkeypatch):
    """As on a GPU without the CUDA toolkit."""
    logits, tokens = inputs
    loss = RNNTLoss(num_classes=7, reduction=None)
    use_our_lattice(loss)
    elsewhere = logits.detach().to("meta")
    asked = []
    monkeypatch.setattr(module, "lattice_nll", lambda *_: asked.append("ours"))
    monkeypatch.setattr(loss._loss.others, "forward", lambda **_: asked.append("NeMo's"))
    for compiles in (True, False):
        monkeypatch.setattr(module, "numba_compiles", lambda compiles=compiles: compiles)
        loss._loss(elsewhere, tokens.to("meta"), FRAMES, TARGETS)
    assert asked == ["NeMo's", "ours"]
    assert numba_compiles() in (True, False)

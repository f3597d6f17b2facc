"""The lattice's recursions by Triton against PyTorch: in Triton's interpreter on a CPU, compiled on a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

from nemo_speechlm.kernels.lattice import lattice_nll, occupation

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(B, T, U, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    log_probs = (2 * torch.randn(B, T, U + 1, 4, generator=generator, dtype=dtype)).log_softmax(-1).to(DEVICE)
    frames = torch.randint(1, T + 1, (B,), generator=generator).to(DEVICE)
    targets = torch.randint(0, U + 1, (B,), generator=generator).to(DEVICE)
    return log_probs[..., -1].contiguous(), log_probs[:, :, :-1, 0].contiguous(), frames, targets


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 6), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_loss_and_gradients_are_pytorchs(B, T, U, seed):
    blank, emit, frames, targets = draw(B, T, U, seed)
    found = []
    for backend in ("torch", "triton"):
        leaves = [x.clone().requires_grad_() for x in (blank, emit)]
        losses = lattice_nll(*leaves, frames, targets, backend=backend)
        found.append((losses.detach(), *torch.autograd.grad(losses.sum(), leaves)))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_in_double_precision():
    blank, emit, frames, targets = draw(2, 5, 3, 0, torch.float64)
    for ours, theirs in zip(*(occupation(blank, emit, frames, targets, b) for b in ("triton", "torch")), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_another_backend_is_refused():
    with pytest.raises(ValueError, match="expected auto, triton or torch"):
        occupation(*draw(1, 2, 1, 0), backend="cuda")

"""The RNN-T lattice against all of its paths, against NeMo's loss, and its gradient against differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nemo.collections.asr.losses.rnnt_pytorch import RNNTLossPytorch

from nemo_speechlm.kernels.lattice import best_paths, lattice_nll, occupation


def paths(T, U):
    """All ways to emit U targets on T frames: the frame of each."""
    if U == 0:
        yield ()
        return
    for rest in paths(T, U - 1):
        for frame in range(rest[-1] if rest else 0, T):
            yield (*rest, frame)


def arcs(path, T):
    """The arcs of a path: ("blank", t, u) and ("emit", t, u)."""
    u = 0
    for t in range(T):
        while u < len(path) and path[u] == t:
            yield "emit", t, u
            u += 1
        yield "blank", t, u


def draw(B, T, U, seed=0, spread=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(B, T, U + 1, 5, generator=generator, dtype=dtype)
    log_probs = logits.log_softmax(-1)
    return log_probs[..., -1].contiguous(), log_probs[:, :, :-1, 0].contiguous()


def brute_force(blank, emit, T, U):
    """Score of each path of one row."""
    arc = {"blank": blank, "emit": emit}
    return {path: sum(float(arc[kind][t, u]) for kind, t, u in arcs(path, T)) for path in paths(T, U)}


@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1000))
@settings(max_examples=60)
def test_against_all_paths(T, U, more_frames, more_targets, seed):
    blank, emit = draw(2, T + more_frames, U + more_targets, seed, spread=2.0)
    frames, targets = torch.tensor([T, T + more_frames]), torch.tensor([U, U])
    scores = brute_force(blank[0], emit[0], T, U)
    likelihood = sum(map(math.exp, scores.values()))
    losses = lattice_nll(blank, emit, frames, targets)
    assert float(losses[0]) == pytest.approx(-math.log(likelihood), rel=1e-9)
    best = best_paths(blank, emit, frames, targets)
    assert best.scores[0] == pytest.approx(max(scores.values()), rel=1e-9)
    assert scores[tuple(best.frames[0, :U].tolist())] == pytest.approx(max(scores.values()), rel=1e-9)
    assert (best.frames[0, U:] == -1).all()
    of_blank, of_emit = occupation(blank, emit, frames, targets)
    found = {"blank": of_blank[0], "emit": of_emit[0]}
    expected = {kind: torch.zeros_like(values) for kind, values in found.items()}
    for path, score in scores.items():
        for kind, t, u in arcs(path, T):
            expected[kind][t, u] += math.exp(score) / likelihood
    for kind in found:
        torch.testing.assert_close(found[kind], expected[kind], rtol=1e-8, atol=1e-12)


def test_gradients():
    blank, emit = draw(3, 4, 3, spread=1.5)
    frames, targets = torch.tensor([4, 2, 3]), torch.tensor([3, 1, 0])
    blank.requires_grad_()
    emit.requires_grad_()
    torch.autograd.gradcheck(lambda b, e: lattice_nll(b, e, frames, targets), (blank, emit))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_padding_counts_for_nothing(bad):
    blank, emit = draw(2, 6, 4)
    frames, targets = torch.tensor([6, 3]), torch.tensor([4, 2])
    alone = lattice_nll(blank[1:, :3, :3], emit[1:, :3, :2], frames[1:], targets[1:])
    blank[1, 3:], blank[1, :, 3:], emit[1, 3:], emit[1, :, 2:] = bad, bad, bad, bad
    blank.requires_grad_()
    emit.requires_grad_()
    losses = lattice_nll(blank, emit, frames, targets)
    torch.testing.assert_close(losses[1:], alone)
    losses.sum().backward()
    for gradient, (last, width) in ((blank.grad, (3, 3)), (emit.grad, (3, 2))):
        assert gradient.isfinite().all()
        assert (gradient[1, last:] == 0).all()
        assert (gradient[1, :, width:] == 0).all()


def test_a_row_without_a_path_spoils_no_gradient():
    blank, emit = draw(2, 4, 2)
    emit[1, :, 0] = -float("inf")
    blank.requires_grad_()
    losses = lattice_nll(blank, emit, torch.tensor([4, 4]), torch.tensor([2, 2]))
    assert losses[0].isfinite()
    assert losses[1] == float("inf")
    losses[:1].sum().backward()
    assert blank.grad.isfinite().all()
    assert (blank.grad[1] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_nemos_loss(dtype):
    generator = torch.Generator().manual_seed(0)
    B, T, U, V = 3, 12, 7, 9
    logits = torch.randn(B, T, U + 1, V + 1, generator=generator, requires_grad=True)
    tokens = torch.randint(0, V, (B, U), generator=generator)
    frames, targets = torch.tensor([12, 9, 5]), torch.tensor([7, 3, 6])
    expected = RNNTLossPytorch(blank=V, reduction="none")(
        acts=logits.log_softmax(-1), labels=tokens, act_lens=frames, label_lens=targets
    )
    (theirs,) = torch.autograd.grad(expected.sum(), logits)
    log_probs = logits.log_softmax(-1)
    wanted = tokens[:, None, :, None].expand(-1, T, -1, 1)
    blank, emit = log_probs[..., -1], log_probs[:, :, :-1].gather(3, wanted).squeeze(3)
    losses = lattice_nll(blank.to(dtype), emit.to(dtype), frames, targets)
    assert losses.dtype == torch.float32
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(losses, expected, **near)
    (ours,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(ours, theirs, **near)


@pytest.mark.parametrize(
    ("blank", "emit", "frames", "targets", "message"),
    [
        ((2, 3, 4), (2, 3, 4), [3, 3], [1, 1], r"expected \(B, T, U \+ 1\) and \(B, T, U\)"),
        ((2, 3, 4), (2, 3, 3), [3, 4], [1, 1], r"frames are \[3, 4\], expected 1 to 3"),
        ((2, 3, 4), (2, 3, 3), [3, 0], [1, 1], "frames are"),
        ((2, 3, 4), (2, 3, 3), [3, 3], [4, 1], r"targets are \[4, 1\], expected 0 to 3"),
        ((2, 3, 4), (2, 3, 3), [3], [1, 1], r"frames is \(1,\), expected \(2,\)"),
    ],
)
def test_arguments_that_do_not_fit(blank, emit, frames, targets, message):
    with pytest.raises(ValueError, match=message):
        lattice_nll(torch.zeros(blank), torch.zeros(emit), torch.tensor(frames), torch.tensor(targets))


def test_of_paths_that_are_as_probable_the_earlier():
    best = best_paths(torch.zeros(2, 3, 3), torch.zeros(2, 3, 2), torch.tensor([3, 2]), torch.tensor([2, 1]))
    assert best.frames.tolist() == [[0, 0], [0, -1]]

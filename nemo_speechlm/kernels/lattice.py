"""The lattice of an RNN-T (Graves, arXiv 1211.3711): its loss, its arcs' probabilities, its best path.

From node (t, u), at frame t with u targets emitted, blank leads to (t + 1, u) and the next target to (t, u + 1). A
path begins at (0, 0) and ends with the blank of (frames - 1, targets). All nodes with the same n = t + u are computed
at once: they depend on those of n - 1 alone.

Axis legend: B rows, T frames, U targets, N diagonals, T + U of them.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from nemo_speechlm.kernels.backend import Backend, choose_kernel

_NONE = float("-inf")


class BestPath(NamedTuple):
    """The most probable path of each row.

    Attributes:
        frames: (B, U) int64, the frame at which each target is emitted; -1 in padding.
        scores: (B,) log-probabilities.
    """

    frames: Tensor
    scores: Tensor


class _Lattice(NamedTuple):
    """Log-probabilities of arcs by diagonal; those that no path takes are -inf.

    Attributes:
        blank: (N, B, U + 1).
        emit: (N, B, U + 1), the last column -inf.
        frames: (B,).
        targets: (B,).
    """

    blank: Tensor
    emit: Tensor
    frames: Tensor
    targets: Tensor


def lattice_nll(blank: Tensor, emit: Tensor, frames: Tensor, targets: Tensor, backend: Backend = "auto") -> Tensor:
    """The negative log-likelihood of each row's targets: the RNN-T loss.

    What stands behind a row's frames or targets counts for nothing, whatever it is, and gets no gradient.

    Args:
        blank: (B, T, U + 1) log-probabilities of blank at (t, u).
        emit: (B, T, U) log-probabilities of target u at (t, u).
        frames: (B,) int64, from 1 to T.
        targets: (B,) int64, from 0 to U.
        backend: see :func:`~nemo_speechlm.kernels.backend.choose_kernel`.

    Returns:
        (B,), in float32 at least.

    Raises:
        ValueError: if shapes do not fit one another, or lengths the shapes.
    """
    check_lattice(blank, emit, frames, targets)
    return _LatticeLoss.apply(blank, emit, frames, targets, backend)


@torch.no_grad()
def occupation(
    blank: Tensor, emit: Tensor, frames: Tensor, targets: Tensor, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """How probable it is that a row's path takes each arc, given its targets.

    See :func:`lattice_nll` for the arguments.

    Returns:
        of blank (B, T, U + 1) and of targets (B, T, U); 0 where no path goes.
    """
    check_lattice(blank, emit, frames, targets)
    return _occupation(_lattice(blank, emit, frames, targets), blank.shape[1], backend)[1:]


@torch.no_grad()
def best_path(blank: Tensor, emit: Tensor, frames: Tensor, targets: Tensor) -> Tensor:
    """The frame (B, U) at which the most probable path emits each target; see :func:`best_paths`."""
    return best_paths(blank, emit, frames, targets).frames


@torch.no_grad()
def best_paths(blank: Tensor, emit: Tensor, frames: Tensor, targets: Tensor) -> BestPath:
    """The most probable path of each row, exactly; see :func:`lattice_nll` for the arguments.

    Of two paths that are as probable, it is the one that emits its last targets earlier.
    """
    check_lattice(blank, emit, frames, targets)
    lattice = _lattice(blank, emit, frames, targets)
    N, B, width = lattice.blank.shape
    scores = torch.full((N, B, width), _NONE, dtype=lattice.blank.dtype, device=blank.device)
    scores[0, :, 0] = 0.0
    emitted = torch.zeros(N, B, width, dtype=torch.bool, device=blank.device)
    stay, move = torch.empty_like(scores[0]), torch.empty_like(scores[0, :, 1:])
    for n in range(1, N):
        torch.add(scores[n - 1], lattice.blank[n - 1], out=stay)
        torch.add(scores[n - 1, :, :-1], lattice.emit[n - 1, :, :-1], out=move)
        torch.gt(move, stay[:, 1:], out=emitted[n, :, 1:])
        torch.maximum(stay[:, 1:], move, out=stay[:, 1:])
        scores[n] = stay
    rows = torch.arange(B, device=blank.device)
    last = frames + targets - 1
    total = scores[last, rows, targets] + lattice.blank[last, rows, targets]
    path = _trace(emitted.cpu().numpy(), last.cpu().numpy(), targets.cpu().numpy(), emit.shape[2])
    return BestPath(torch.from_numpy(path).to(blank.device), total)


def _trace(emitted: np.ndarray, last: np.ndarray, targets: np.ndarray, width: int) -> np.ndarray:
    """Follow each row's path back from its last node: (B, U) frames."""
    path = np.full((len(targets), width), -1, dtype=np.int64)
    rows, n, u = np.arange(len(targets)), last.copy(), targets.copy()
    for _ in range(int(last.max())):
        emits = emitted[n, rows, u] & (n > 0)
        which = rows[emits]
        path[which, u[emits] - 1] = n[emits] - u[emits]
        u = u - emits
        n = np.maximum(n - 1, 0)
    return path


def check_lattice(blank: Tensor, emit: Tensor, frames: Tensor, targets: Tensor) -> None:
    """Raise a ValueError unless the arguments of :func:`lattice_nll` fit one another."""
    B, T, width = blank.shape
    if emit.shape != (B, T, width - 1):
        raise ValueError(
            f"lattice: blank is {tuple(blank.shape)} and emit {tuple(emit.shape)}; "
            "expected (B, T, U + 1) and (B, T, U)"
        )
    for name, lengths, least, most in (("frames", frames, 1, T), ("targets", targets, 0, width - 1)):
        if lengths.shape != (B,):
            raise ValueError(f"lattice: {name} is {tuple(lengths.shape)}, expected ({B},)")
        if lengths.is_cpu and B and not least <= int(lengths.min()) <= int(lengths.max()) <= most:
            raise ValueError(f"lattice: {name} are {lengths.tolist()}, expected {least} to {most}")


class _LatticeLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, blank: Tensor, emit: Tensor, frames: Tensor, targets: Tensor, backend: str) -> Tensor:
        lattice = _lattice(blank, emit, frames, targets)
        if not any(ctx.needs_input_grad):
            return -_total(lattice, _forward(lattice))
        loss, of_blank, of_emit = _occupation(lattice, blank.shape[1], backend)
        ctx.save_for_backward(of_blank.to(blank.dtype), of_emit.to(emit.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_blank, of_emit = ctx.saved_tensors
        weight = -gradient.view(-1, 1, 1)
        return (of_blank * weight).to(of_blank.dtype), (of_emit * weight).to(of_emit.dtype), None, None, None


def _lattice(blank: Tensor, emit: Tensor, frames: Tensor, targets: Tensor) -> _Lattice:
    T, width = blank.shape[1:]
    dtype = torch.promote_types(blank.dtype, torch.float32)
    t = torch.arange(T, device=blank.device).view(1, T, 1)
    u = torch.arange(width, device=blank.device)
    frames_B, targets_B = frames.view(-1, 1, 1), targets.view(-1, 1, 1)
    outside = (t >= frames_B) | (u > targets_B)
    blank = blank.detach().to(dtype).masked_fill(outside, _NONE)
    emit = pad(emit.detach().to(dtype), (0, 1)).masked_fill(outside | (u >= targets_B), _NONE)
    return _Lattice(_by_diagonal(blank), _by_diagonal(emit), frames, targets)


def _by_diagonal(x_BTU: Tensor) -> Tensor:
    """(B, T, U) -> (T + U - 1, B, U): at (n, b, u), what stood at (b, n - u, u); -inf where that is outside."""
    B, T, width = x_BTU.shape
    rows = pad(x_BTU.transpose(1, 2), (0, width), value=_NONE).reshape(B, -1)
    return rows[:, :-width].view(B, width, T + width - 1).permute(2, 0, 1).contiguous()


def _by_frame(x_NBU: Tensor, T: int) -> Tensor:
    """What :func:`_by_diagonal` made, back again: (B, T, U)."""
    _, B, width = x_NBU.shape
    rows = pad(x_NBU.permute(1, 2, 0).reshape(B, -1), (0, width))
    return rows.view(B, width, T + width)[:, :, :T].transpose(1, 2)


@cache
def _triton() -> Callable[..., tuple[Tensor, Tensor]] | None:
    try:
        from nemo_speechlm.kernels.lattice_triton import alpha_beta_triton
    except ImportError:
        return None
    return alpha_beta_triton


def _alpha_beta(*lattice: Tensor) -> tuple[Tensor, Tensor]:
    return _forward(_Lattice(*lattice)), _backward(_Lattice(*lattice))


def _forward(lattice: _Lattice) -> Tensor:
    """(N, B, U + 1): the log-probability of reaching each node."""
    alpha = torch.full_like(lattice.blank, _NONE)
    alpha[0, :, 0] = 0.0
    move = torch.empty_like(alpha[0, :, 1:])
    for n in range(1, len(alpha)):
        torch.add(alpha[n - 1], lattice.blank[n - 1], out=alpha[n])
        torch.add(alpha[n - 1, :, :-1], lattice.emit[n - 1, :, :-1], out=move)
        torch.logaddexp(alpha[n, :, 1:], move, out=alpha[n, :, 1:])
    return alpha


def _backward(lattice: _Lattice) -> Tensor:
    """(N + 1, B, U + 1): the log-probability of reaching the end from each node."""
    N, B, width = lattice.blank.shape
    beta = torch.full((N + 1, B, width), _NONE, dtype=lattice.blank.dtype, device=lattice.blank.device)
    end = torch.zeros(N + 1, B, width, dtype=torch.bool, device=beta.device)
    end[lattice.frames + lattice.targets, torch.arange(B, device=beta.device), lattice.targets] = True
    move = torch.empty_like(beta[0, :, 1:])
    beta[N].masked_fill_(end[N], 0.0)
    for n in range(N - 1, -1, -1):
        torch.add(beta[n + 1], lattice.blank[n], out=beta[n])
        torch.add(beta[n + 1, :, 1:], lattice.emit[n, :, :-1], out=move)
        torch.logaddexp(beta[n, :, :-1], move, out=beta[n, :, :-1])
        beta[n].masked_fill_(end[n], 0.0)
    return beta


def _total(lattice: _Lattice, alpha: Tensor) -> Tensor:
    """The log-likelihood (B,)."""
    last, rows = lattice.frames + lattice.targets - 1, torch.arange(alpha.shape[1], device=alpha.device)
    return alpha[last, rows, lattice.targets] + lattice.blank[last, rows, lattice.targets]


def _occupation(lattice: _Lattice, T: int, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """The loss (B,), and how probable the arcs are: (B, T, U + 1) and (B, T, U)."""
    alpha, beta = choose_kernel(backend, lattice.blank, _alpha_beta, _triton)(*lattice)
    total = _total(lattice, alpha)
    # Where no path is possible, the loss is infinite and nothing has a gradient.
    alpha = alpha - total.masked_fill(total == _NONE, 0.0).unsqueeze(1)
    of_blank = (alpha + lattice.blank + beta[1:]).exp_()
    of_emit = (alpha[:, :, :-1] + lattice.emit[:, :, :-1] + beta[1:, :, 1:]).exp_()
    of_emit = pad(of_emit, (0, 1))
    return -total, _by_frame(of_blank, T).contiguous(), _by_frame(of_emit, T)[:, :, :-1].contiguous()

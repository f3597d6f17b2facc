"""The Triton version of the recursions of :mod:`nemo_speechlm.kernels.lattice`: one launch for both directions.

A program takes one row of the batch in one direction, and goes from diagonal to diagonal with all of a diagonal's
nodes at once. What it has written of a diagonal it reads again for the next one.

Axis legend: N diagonals, B rows, W = U + 1 nodes of a diagonal.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _log_add(one, other):
    most = tl.maximum(one, other)
    safe = tl.where(most == float("-inf"), 0.0, most)
    return tl.where(most == float("-inf"), most, safe + tl.log(tl.exp(one - safe) + tl.exp(other - safe)))


@triton.jit
def _kernel(blank, emit, alpha, beta, ends, targets, N, B, W, WIDTH: tl.constexpr):
    row = tl.program_id(0)
    u = tl.arange(0, WIDTH)
    inside = u < W
    diagonal = B * W
    here = row * W + u
    none = float("-inf")
    if tl.program_id(1) == 0:
        for n in range(1, N):
            before = (n - 1) * diagonal + here
            stay = tl.load(alpha + before, mask=inside, other=none) + tl.load(blank + before, mask=inside, other=none)
            moved = inside & (u > 0)
            left = tl.load(alpha + before - 1, mask=moved, other=none)
            left += tl.load(emit + before - 1, mask=moved, other=none)
            tl.store(alpha + n * diagonal + here, _log_add(stay, left), mask=inside)
            tl.debug_barrier()
    else:
        end, last = tl.load(ends + row), tl.load(targets + row)
        for back in range(N):
            n = N - 1 - back
            now, behind = n * diagonal + here, (n + 1) * diagonal + here
            stay = tl.load(beta + behind, mask=inside, other=none) + tl.load(blank + now, mask=inside, other=none)
            moved = inside & (u < W - 1)
            right = tl.load(beta + behind + 1, mask=moved, other=none)
            right += tl.load(emit + now, mask=moved, other=none)
            value = tl.where((n == end) & (u == last), 0.0, _log_add(stay, right))
            tl.store(beta + now, value, mask=inside)
            tl.debug_barrier()


def alpha_beta_triton(blank: Tensor, emit: Tensor, frames: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How probable it is to reach each node, and the end from it.

    Args:
        blank: (N, B, W) log-probabilities of arcs by diagonal, -inf where no path goes.
        emit: the same of targets.
        frames: (B,).
        targets: (B,).

    Returns:
        (N, B, W) and (N + 1, B, W), in logarithms.
    """
    N, B, W = blank.shape
    alpha = torch.empty_like(blank)
    alpha[0] = float("-inf")
    alpha[0, :, 0] = 0.0
    beta = torch.full((N + 1, B, W), float("-inf"), dtype=blank.dtype, device=blank.device)
    ends = frames + targets
    beta[N].masked_fill_((ends == N).unsqueeze(1) & (torch.arange(W, device=ends.device) == targets.unsqueeze(1)), 0.0)
    if B:
        with torch.cuda.device_of(blank):  # Triton launches on the current device
            _kernel[(B, 2)](blank, emit, alpha, beta, ends, targets, N, B, W, WIDTH=triton.next_power_of_2(W))
    return alpha, beta

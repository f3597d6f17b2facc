"""Dropout whose random numbers are drawn 16 bits at a time on a CPU, a ninth of PyTorch's time."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nemo_speechlm.kernels.cpu import is_fast, is_fast_mixed

_LEVELS = 1 << 16


def keep_mask(shape: torch.Size | tuple[int, ...], prob: float) -> Tensor:
    """Draw 1.0 with probability ``1 - prob``, else 0.0, with the CPU's default generator; fp32.

    ``prob`` is rounded to a multiple of 2^-16; :func:`keep_scale` knows.
    """
    out = torch.empty(shape, dtype=torch.float32)
    bits = torch.empty(-(-out.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    torch.ge(bits[: out.numel()].view(shape), _threshold(prob), out=out)
    return out


def keep_scale(prob: float) -> float:
    """What keeps the mean: one over the share that :func:`keep_mask` keeps."""
    return _LEVELS / (_LEVELS - _dropped(prob))


def _dropped(prob: float) -> int:
    return round(prob * _LEVELS)


def _threshold(prob: float) -> int:
    return _dropped(prob) - _LEVELS // 2


def dropout(x: Tensor, prob: float, training: bool, residual: Tensor | None = None) -> Tensor:
    """Dropout of x, added to ``residual`` (of the same shape) where there is one."""
    if not training or prob == 0.0:
        return x if residual is None else residual + x
    if prob < 1.0 and (is_fast(x, residual) or is_fast_mixed(x, residual)) and x.is_contiguous():
        return _Dropout.apply(x, residual, prob)
    dropped = F.dropout(x, prob)
    return dropped if residual is None else residual + dropped


class Dropout(torch.nn.Dropout):
    """``torch.nn.Dropout`` by :func:`dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return F.dropout(input, self.p, self.training, True) if self.inplace else dropout(input, self.p, self.training)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, prob: float) -> Tensor:
        mask = keep_mask(x.shape, prob)
        ctx.scale, ctx.dtype = keep_scale(prob), x.dtype
        ctx.save_for_backward(mask.to(torch.uint8))
        if residual is None:
            return mask.mul_(x).mul_(ctx.scale).to(x.dtype)
        if torch.bfloat16 in (x.dtype, residual.dtype):
            return torch.add(residual, mask.mul_(x), alpha=ctx.scale).to(residual.dtype)
        return torch.addcmul(residual, x, mask, value=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        inner = None
        if ctx.needs_input_grad[0]:
            inner = mask.to(gradient.dtype).mul_(gradient).mul_(ctx.scale).to(ctx.dtype)
        return inner, gradient if ctx.needs_input_grad[1] else None, None

"""Linear layers and feed-forwards; on a CPU by oneDNN, and without keeping what is cheap to make anew.

Axis legend: N rows, I inputs, O outputs, F inner width of the feed-forward.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nemo_speechlm.kernels.cpu import is_fast, product, product_gradient, product_weight_gradient


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``: (..., I) -> (..., O)."""
    if not is_fast(x, weight_OI, bias_O):
        return F.linear(x, weight_OI, bias_O)
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    return _Linear.apply(flat, weight_OI, bias_O).view(*x.shape[:-1], len(weight_OI))


def feed_forward(x: Tensor, weight_FI: Tensor, bias_F: Tensor, weight_OF: Tensor, bias_O: Tensor) -> Tensor:
    """``linear(gelu(linear(x)))``: (..., I) -> (..., O). On a CPU what the GELU gives is not kept for the gradient."""
    if not is_fast(x, weight_FI, weight_OF):
        return F.linear(F.gelu(F.linear(x, weight_FI, bias_F)), weight_OF, bias_O)
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    return _FeedForward.apply(flat, weight_FI, bias_F, weight_OF, bias_O).view(*x.shape[:-1], len(weight_OF))


class Linear(torch.nn.Linear):
    """``torch.nn.Linear`` by :func:`linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return linear(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return _gradients(gradient.contiguous(), x, weight, ctx.needs_input_grad)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> Tensor:
        inner = product(x, first, first_bias)
        if not any(ctx.needs_input_grad):
            return product(torch.ops.aten.gelu_(inner), second, second_bias)
        ctx.save_for_backward(x, inner, first, second)
        return product(F.gelu(inner), second, second_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, first, second = ctx.saved_tensors
        needs = ctx.needs_input_grad
        gradient = gradient.contiguous()
        inner_gradient, of_second, of_second_bias = _gradients(
            gradient, F.gelu(inner), second, (any(needs[:3]), needs[3], needs[4])
        )
        if inner_gradient is None:
            return None, None, None, of_second, of_second_bias
        torch.ops.aten.gelu_backward.grad_input(inner_gradient, inner, grad_input=inner_gradient)
        return *_gradients(inner_gradient, x, first, needs[:3]), of_second, of_second_bias


def _gradients(
    gradient_NO: Tensor, x_NI: Tensor, weight_OI: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients for input, weight and bias of a product."""
    of_x = product_gradient(gradient_NO, weight_OI) if needs[0] else None
    of_weight = product_weight_gradient(gradient_NO, x_NI) if needs[1] else None
    return of_x, of_weight, gradient_NO.sum(0) if needs[2] else None

"""Modules that keep fp32 in models that are turned into bf16 (``trainer.precision=bf16-true``)."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


def is_half(tensor: Tensor) -> bool:
    """Whether its numbers have 16 bits."""
    return tensor.dtype in (torch.bfloat16, torch.float16)


class FullWidth(nn.Module):
    """A module whose numbers, and those of the modules in it, do not become half as wide as they are.

    For what bf16 would ruin: counts, averages, positions. They move between devices like any other's.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def widely(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if is_half(moved) else moved

        return super()._apply(widely, recurse)

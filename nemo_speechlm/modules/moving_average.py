"""The step of an exponential average of weights."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def follow(average: Sequence[Tensor], weights: Iterable[Tensor], decay: float, number: int) -> None:
    """Move averages towards weights, which may be in another precision, by 1 - min(decay, (n + 1) / (n + 10)).

    Args:
        average: changed in place.
        weights: as many, of the same shapes.
        decay: share of the average that stays, from 0 to 1; less in the first updates.
        number: n, of the update, from 1.
    """
    new = [weight.detach().to(kept.dtype) for weight, kept in zip(weights, average, strict=True)]
    torch._foreach_lerp_(list(average), new, 1 - min(decay, (number + 1) / (number + 10)))

"""In which precision losses are computed."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor in float32, or as it is if that is float64: bfloat16 has three digits for the sum of a batch."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

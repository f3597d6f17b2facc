"""Lengths and the masks made of them."""

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """(B,) lengths -> (B, num_frames) bool, True where padded."""
    return torch.arange(num_frames, device=lengths.device) >= lengths.unsqueeze(1)

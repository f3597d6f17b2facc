"""Sinusoidal positions, in the two orders of sines and cosines that released models have.

Axis legend: U positions, D width.
"""

import math

import torch
from torch import Tensor, nn


def alternating_sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """The positions of "Attention is all you need" (arXiv 1706.03762, section 3.5): sine, cosine, sine, ...

    Args:
        length: U; the first position is 0.
        width: D, an even number.
        like: has the device and the type of the result.

    Returns:
        (U, D).
    """
    return sinusoids_at(torch.arange(length, dtype=torch.float64, device=like.device), width).to(like.dtype)


def sinusoids_at(positions: Tensor, width: int) -> Tensor:
    """Those of :func:`alternating_sinusoids` at any positions, also between two: (..., U) float64 -> (..., U, D)."""
    rates = torch.exp(
        torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) * (-math.log(1e4) / width)
    )
    angles = positions.unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def fairseq_rates(width: int, device: torch.device | None = None) -> Tensor:
    """How fast the angle of each of fairseq's sinusoids grows with the position, (D // 2,) fp32."""
    half = width // 2
    return torch.exp(torch.arange(half, dtype=torch.float32, device=device) * -(math.log(10000) / max(1, half - 1)))


def fairseq_sinusoids(positions: Tensor, width: int, rates: Tensor | None = None) -> Tensor:
    """The positions of fairseq's models: all sines, then all cosines, and a zero behind them where D is odd.

    Args:
        positions: (U,). fairseq's first position is 2, the one behind that of padding.
        width: D.
        rates: of :func:`fairseq_rates`, where they have been computed already.

    Returns:
        (U, D) fp32.
    """
    angles = positions.unsqueeze(-1) * (fairseq_rates(width, positions.device) if rates is None else rates)
    return nn.functional.pad(torch.cat((angles.sin(), angles.cos()), dim=-1), (0, width % 2))

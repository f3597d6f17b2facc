"""Signals of different lengths in one batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SHORTEST = 0.1
"""Seconds to which shorter signals are filled up with silence: less than a frame of audio breaks front ends."""


def collate_audio(signals: Sequence[np.ndarray], sample_rate: int) -> tuple[Tensor, Tensor]:
    """Pad signals with silence to the length of the longest.

    Args:
        signals: samples (S,) of each.
        sample_rate: in Hz.

    Returns:
        audio (B, S) float32, and the lengths (B,), none below :data:`SHORTEST`.
    """
    shortest = round(SHORTEST * sample_rate)
    lengths = torch.tensor([max(len(samples), shortest) for samples in signals])
    audio = torch.zeros(len(signals), int(lengths.max()))
    for row, samples in zip(audio, signals, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    return audio, lengths

"""UMLM: unit-based masked language modelling on speech (SpeechLM section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class UnitPrediction(NamedTuple):
    """How well the units of some frames are predicted; all are () tensors on the device.

    Attributes:
        loss: sum of the cross-entropies, in nats.
        correct: frames whose most likely unit is right.
        frames: how many they were.
    """

    loss: Tensor
    correct: Tensor
    frames: Tensor


def unit_prediction(logits: Tensor, units: Tensor, frames: Tensor) -> UnitPrediction:
    """Score the predictions of the frames where ``frames`` is True.

    Args:
        logits: (B, T, V); the loss is of float32 at least.
        units: (B, T) int64; read only where ``frames`` is True.
        frames: (B, T) bool.
    """
    ignored = units.masked_fill(~frames, -100)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))  # bfloat16 has three digits for a sum
    loss = F.cross_entropy(wide.flatten(0, 1), ignored.flatten(), ignore_index=-100, reduction="sum")
    return UnitPrediction(loss, (logits.argmax(-1) == ignored).sum(), frames.sum())

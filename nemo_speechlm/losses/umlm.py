"""UMLM: unit-based masked language modelling on speech (SpeechLM section 3.3)."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from nemo_speechlm.losses.precision import at_least_float32


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
    wide = at_least_float32(logits).flatten(0, 1)
    loss = F.cross_entropy(wide, ignored.flatten(), ignore_index=-100, reduction="sum")
    return UnitPrediction(loss, (logits.argmax(-1) == ignored).sum(), frames.sum())

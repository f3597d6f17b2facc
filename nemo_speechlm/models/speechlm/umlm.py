"""TODO nemo_speechlm.models.speechlm.umlm."""

from typing import NamedTuple

from torch import Tensor

from nemo_speechlm.losses import UnitPrediction

LEVELS = ("speech", "shared")
"""UMLM is computed on the states of both transformers."""


class SpeechOutput(NamedTuple):
    """What the speech branch computes for a batch.

    Attributes:
        logits: for each of ``LEVELS``, (B, T, V).
        units: (B, T) the unit of each frame, ``PAD_UNIT`` where it has none.
        mask: (B, T) bool, frames that were masked.
        swap: (B, T) bool, frames swapped for the embedding of their unit before the shared transformer.
        penalty: () mean square of the front end's features.
    """

    logits: list[Tensor]
    units: Tensor
    mask: Tensor
    swap: Tensor
    penalty: Tensor


def _accuracy(prediction: UnitPrediction) -> Tensor:
    return prediction.correct / prediction.frames.clamp(min=1)

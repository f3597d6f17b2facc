"""What a task computes of a batch: terms of the loss, and how often it was right."""

from typing import NamedTuple

from torch import Tensor

from nemo_speechlm.losses import UnitPrediction


class Figure(NamedTuple):
    """A sum and what it is a sum over, both () tensors on the device: means over several batches come out right.

    Attributes:
        total: the sum.
        number: of frames, tokens or pairs.
    """

    total: Tensor
    number: Tensor


def figures_of(name: str, accuracy: str, prediction: UnitPrediction) -> dict[str, Figure]:
    """Cross-entropy and accuracy of a prediction, under these names."""
    return {
        name: Figure(prediction.loss, prediction.frames),
        accuracy: Figure(prediction.correct, prediction.frames),
    }

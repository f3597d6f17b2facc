"""What a pretraining step receives: a batch of speech, a batch of text, or both.

Axis legend: B utterances or sentences, S samples, L unit frames, U characters.
"""

from typing import NamedTuple

from torch import Tensor

PAD_UNIT = -1
"""Stands in padded places of unit tensors; no unit has it."""


class SpeechBatch(NamedTuple):
    """Audio with one unit per frame of the inventory's frame rate.

    Attributes:
        audio: (B, S) float, zero where padded.
        audio_lengths: (B,) int64, samples.
        units: (B, L) int64, ``PAD_UNIT`` where padded.
        unit_lengths: (B,) int64, frames.
    """

    audio: Tensor
    audio_lengths: Tensor
    units: Tensor
    unit_lengths: Tensor


class TextBatch(NamedTuple):
    """Expanded unit sequences with the characters they spell.

    Attributes:
        units: (B, L) int64, one unit per text frame, ``PAD_UNIT`` where padded.
        unit_lengths: (B,) int64, frames.
        targets: (B, U) int64 character ids (index into the model's ``labels``), 0 where padded.
        target_lengths: (B,) int64, characters.
    """

    units: Tensor
    unit_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor


class PretrainBatch(NamedTuple):
    """One step's data; a part that the step does not have is None."""

    speech: SpeechBatch | None = None
    text: TextBatch | None = None

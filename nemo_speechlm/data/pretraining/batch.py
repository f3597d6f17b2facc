"""What a training step receives: a batch of speech, of text, of both, or of transcribed speech.

Batches know the ids of their examples: where they stand in the manifests. Messages name them.

Axis legend: B utterances or sentences, S samples, L unit frames, U characters.
"""

from typing import Any, NamedTuple

import torch
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
        ids: of the utterances; empty where they are not known.
    """

    audio: Tensor
    audio_lengths: Tensor
    units: Tensor
    unit_lengths: Tensor
    ids: tuple[str, ...] = ()


class TextBatch(NamedTuple):
    """Expanded unit sequences with the characters they spell.

    Attributes:
        units: (B, L) int64, one unit per text frame, ``PAD_UNIT`` where padded.
        unit_lengths: (B,) int64, frames.
        targets: (B, U) int64 character ids (index into the model's ``labels``), 0 where padded.
        target_lengths: (B,) int64, characters.
        ids: of the sentences; empty where they are not known.
    """

    units: Tensor
    unit_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    ids: tuple[str, ...] = ()


class PretrainBatch(NamedTuple):
    """One step's data; a part that the step does not have is None."""

    speech: SpeechBatch | None = None
    text: TextBatch | None = None


class TranscribedBatch(tuple):
    """Audio (B, S), lengths (B,), label ids (B, U), lengths (B,): four tensors, as NeMo's models unpack them.

    It keeps its ``ids`` while data loaders pin it and Lightning moves it: both look for these methods first.
    """

    ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...], ids: tuple[str, ...]) -> "TranscribedBatch":
        """A batch of the tensors, whose utterances have these ids."""
        batch = cls(tensors)
        batch.ids = ids
        return batch

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TranscribedBatch":
        """The batch on another device."""
        return self.of(tuple(tensor.to(device, non_blocking=non_blocking) for tensor in self), self.ids)

    def pin_memory(self) -> "TranscribedBatch":
        """The batch in pinned memory."""
        return self.of(tuple(tensor.pin_memory() for tensor in self), self.ids)


def batch_ids(batch: Any) -> list[str]:
    """The ids of a batch's examples, part by part; empty where it does not know them."""
    parts = (batch, *batch) if isinstance(batch, tuple) else (batch,)
    return [example for part in parts for example in getattr(part, "ids", ())]

"""A batch of transcribed speech.

Axis legend: B utterances, S samples, U characters or tokens.
"""

import torch
from torch import Tensor


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

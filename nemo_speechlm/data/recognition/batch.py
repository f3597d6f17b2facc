"""A batch of transcribed speech.

Axis legend: B utterances, S samples, U characters or tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

REPEATED = " (repeated)"
"""Ends the id of an example that Lhotse gives a second time to a process that would have none."""


def is_repeated(batch: Any) -> bool:
    """Whether nothing of a batch may be counted, since another process has counted it."""
    ids = getattr(batch, "ids", ())
    return bool(ids) and all(name.endswith(REPEATED) for name in ids)


class TranscribedBatch:
    """Audio (B, S), lengths (B,), label ids (B, U), lengths (B,): four tensors, unpacked as NeMo's models do it.

    It is no tuple: data loaders and Lightning take tuples apart and would lose ``ids``, and ``number``, its place in
    the run (None in validation). On other objects they call ``pin_memory`` and ``to``.
    """

    def __init__(self, tensors: Iterable[Tensor], ids: Sequence[str] = (), number: int | None = None):
        self.tensors = tuple(tensors)
        self.ids = tuple(ids)
        self.number = number

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int) -> Tensor:
        return self.tensors[index]

    def numbered(self, number: int) -> "TranscribedBatch":
        """The batch with its number."""
        return TranscribedBatch(self, self.ids, number)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TranscribedBatch":
        """The batch on another device."""
        return TranscribedBatch([t.to(device, non_blocking=non_blocking) for t in self], self.ids, self.number)

    def pin_memory(self) -> "TranscribedBatch":
        """The batch in pinned memory."""
        return TranscribedBatch([tensor.pin_memory() for tensor in self], self.ids, self.number)

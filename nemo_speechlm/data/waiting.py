"""Waiting for the workers of a loader, but not for one that hangs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from nemo_speechlm.errors import InputError

_BYTES = 1024


class Reading:
    """What each worker of a loader is reading, in memory that all its processes share.

    Args:
        workers: number of workers.
    """

    def __init__(self, workers: int):
        self._texts = torch.zeros(workers, _BYTES, dtype=torch.uint8).share_memory_()
        self._counts = torch.zeros(workers, dtype=torch.int64).share_memory_()

    def now(self, text: str) -> None:
        """Say, in a worker, what it begins to read; empty: it has made a batch."""
        worker = get_worker_info()
        if worker is None:
            return
        content = text.encode("utf-8")[: _BYTES - 1]
        row = self._texts[worker.id].numpy()
        row[: len(content)] = np.frombuffer(content, dtype=np.uint8)
        row[len(content)] = 0
        self._counts[worker.id] += 1

    def counts(self) -> list[int]:
        """How often each worker has said something."""
        return self._counts.tolist()

    def stuck_since(self, before: list[int]) -> list[str]:
        """What those workers are reading that have said nothing since ``before``."""
        texts = [bytes(row.numpy()).partition(b"\0")[0].decode("utf-8", "replace") for row in self._texts]
        return [text for text, a, b in zip(texts, before, self.counts(), strict=True) if a == b and text]


def without_hanging(batches: Iterator[Any], reading: Reading, timeout: float) -> Iterator[Any]:
    """Pass on what a data loader with this ``timeout`` makes, unless a worker is stuck.

    PyTorch's timeout is one for a whole batch, which the first after a resume may exceed. Here it is one for each
    example: while workers come on, they are waited for.

    Raises:
        InputError: if a worker has been reading the same for ``timeout`` seconds, naming it.
    """
    while True:
        before = reading.counts()
        while True:
            try:
                batch = next(batches)
                break
            except StopIteration:
                return
            except RuntimeError as error:
                if "timed out" not in str(error):
                    raise
                stuck = reading.stuck_since(before)
                before = reading.counts()
                if stuck:
                    raise InputError(
                        f"has been read for {timeout:g} s without an end (data config: timeout={timeout:g}); does the "
                        "file system hang?",
                        "; ".join(stuck),
                    ) from None
        yield batch

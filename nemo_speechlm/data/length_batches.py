"""Batches of items of similar length, up to so many frames (samples, seconds) in each."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


def batches_by_length(
    lengths: Sequence[float] | np.ndarray,
    longest: float,
    order: np.ndarray | None = None,
    *,
    longest_first: bool = False,
) -> list[np.ndarray]:
    """Cut items, ordered by length, into batches that are at most so long, padding included.

    Args:
        lengths: of each item, in frames, samples or seconds.
        longest: of a batch, in the same unit: its longest item times their number. An item that is longer is a batch
            by itself.
        order: the items by length, or nearly so; None sorts them.
        longest_first: sort them from long to short, so that memory runs out at once if at all.

    Returns:
        arrays of item numbers; each item is in one of them.

    >>> [batch.tolist() for batch in batches_by_length([5, 1, 4, 2], 9)]
    [[1, 3], [2], [0]]
    >>> [batch.tolist() for batch in batches_by_length([1.0, 4.0, 2.0, 1.5], 4.0, longest_first=True)]
    [[1], [2, 3], [0]]
    """
    lengths = np.asarray(lengths)
    if order is None:
        order = np.argsort(-lengths if longest_first else lengths, kind="stable")
    batches, start, width = [], 0, 0
    for position, item in enumerate(order):
        length = lengths[item].item()
        grown = max(width, length)
        if position > start and grown * (position + 1 - start) > longest:
            batches.append(order[start:position])
            start, grown = position, length
        width = grown
    return [*batches, order[start:]] if len(order) else []


class LengthBatches(Sampler[list[int]]):
    """Endless batches for training, pass after pass over all items; a batch depends only on the seed and its number.

    In each pass lengths are jittered before they are sorted, so that batches differ from pass to pass, and the
    batches come in random order. An iteration, as of a resumed run or another epoch, skips the batches that were used.

    Args:
        lengths: frames of each item.
        max_frames: in a batch, padding included.
        seed: of the order.
        rank: of this process.
        world_size: processes, which take turns with the batches.
        jitter: share of its length by which an item's place in the order may differ.
        used: tells when an iteration begins how many batches of this process were used before; None: there are none.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        max_frames: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        jitter: float = 0.1,
        used: Callable[[], int] | None = None,
    ):
        self.lengths, self.max_frames = np.asarray(lengths), max_frames
        self.seed, self.rank, self.world_size, self.jitter = seed, rank, world_size, jitter
        self.used = used

    def __iter__(self) -> Iterator[list[int]]:
        number, turn = 0, 0
        first = (0 if self.used is None else self.used()) * self.world_size + self.rank
        while True:
            batches = self._pass(turn)
            for batch in batches:
                if number >= first and (number - self.rank) % self.world_size == 0:
                    yield batch.tolist()
                number += 1
            turn += 1

    def _pass(self, turn: int) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, turn))
        noisy = self.lengths * (1 + self.jitter * rng.random(len(self.lengths)))
        batches = batches_by_length(self.lengths, self.max_frames, np.argsort(noisy, kind="stable"))
        rng.shuffle(batches)
        return batches

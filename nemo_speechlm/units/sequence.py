"""A sequence of units in run-length form."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class UnitSequence(NamedTuple):
    """Run-length form of a sequence of units.

    Attributes:
        ids: unit ids, one per run.
        durations: frames of each run, counted in the inventory's frame rate.
    """

    ids: list[int]
    durations: list[int]

    @property
    def num_frames(self) -> int:
        """Sum of the durations."""
        return sum(self.durations)

    def expand(self) -> np.ndarray:
        """One unit id per frame, shape (num_frames,), int64."""
        return np.repeat(np.asarray(self.ids, dtype=np.int64), self.durations)

    @classmethod
    def from_frames(cls, frames: Sequence[int] | np.ndarray) -> "UnitSequence":
        """Run-length encode one id per frame.

        >>> UnitSequence.from_frames([3, 3, 1, 3])
        UnitSequence(ids=[3, 1, 3], durations=[2, 1, 1])
        """
        frames = np.asarray(frames, dtype=np.int64)
        if not len(frames):
            return cls([], [])
        starts = np.flatnonzero(np.diff(frames, prepend=frames[0] - 1))
        return cls(frames[starts].tolist(), np.diff(starts, append=len(frames)).tolist())

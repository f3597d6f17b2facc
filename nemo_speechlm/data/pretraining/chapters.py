"""The order of training data: passes over the lines of manifests, cut into chapters that can be begun anywhere.

A pass is a permutation of all lines, decided by the seed and the number of the pass. Batches are made chapter by
chapter: a resumed run reads again only the lines of the chapter in which it stopped.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

CHAPTER_LINES = 16_000
"""Lines of a chapter, about; a pass has a whole number of chapters."""

FIRST_CHAPTER_LINES = 50_000
"""The same in runs whose checkpoints do not say it."""

FEWEST_LINES = 5_000
"""A chapter of small data has several passes: where it ends, batches are not full."""


class Order(NamedTuple):
    """In which order a manifest is read.

    Attributes:
        seed: of the order, of crops and of drawn durations.
        shuffle: a random order, another one in each pass.
        finite: one pass, as for validation; otherwise the reader gives one chapter.
        skip_bad: lines that cannot be used are left out, instead of raising what is wrong with them.
    """

    seed: int = 0
    shuffle: bool = True
    finite: bool = False
    skip_bad: bool = False


class Chapters:
    """Which lines belong to which chapter; the same for everybody who has the seed.

    Args:
        lines: lines of each file; a chapter has all of some files where their lines are in tar files of their own
            (``whole_files``), so that few of these are open at a time.
        key: seeds the permutations, together with the number of the pass.
        shuffle: False for the order in which the lines stand.
        whole_files: see ``lines``.
        chapter_lines: lines of a chapter, about.
    """

    def __init__(
        self,
        lines: Sequence[int],
        key: Sequence[int],
        shuffle: bool = True,
        whole_files: bool = False,
        chapter_lines: int = CHAPTER_LINES,
    ):
        self.first = np.concatenate([[0], np.cumsum(lines)]).astype(np.int64)
        self.key = tuple(key)
        self.shuffle = shuffle
        self.whole_files = whole_files
        total = int(self.first[-1])
        self.passes = max(1, -(-FEWEST_LINES // total))
        most = len(lines) if whole_files else total
        chapters = max(1, round(total / chapter_lines))
        self.per_pass = 1 if self.passes > 1 else min(chapters, most)
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0))

    def rows(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (pass, rows) of a chapter; a row is a line's position in all files together."""
        for turn in range(number // self.per_pass * self.passes, (number // self.per_pass + 1) * self.passes):
            yield turn, self._part(turn, number % self.per_pass)

    def _part(self, turn: int, part: int) -> np.ndarray:
        if not self.whole_files or self.per_pass == 1:
            return _slice(self._permutation(turn, int(self.first[-1])), part, self.per_pass)
        files = _slice(self._permutation(turn, len(self.first) - 1), part, self.per_pass)
        rows = np.concatenate([np.arange(self.first[file], self.first[file + 1]) for file in files])
        if self.shuffle:
            np.random.default_rng((*self.key, turn, part)).shuffle(rows)
        return rows

    def _permutation(self, turn: int, size: int) -> np.ndarray:
        if self._last[0] != turn:
            numbers = np.arange(size, dtype=np.uint32 if size < 1 << 32 else np.uint64)
            if self.shuffle:
                np.random.default_rng((*self.key, turn)).shuffle(numbers)
            self._last = turn, numbers
        return self._last[1]


def _slice(numbers: np.ndarray, part: int, parts: int) -> np.ndarray:
    return numbers[len(numbers) * part // parts : len(numbers) * (part + 1) // parts]

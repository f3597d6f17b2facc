"""The order of training data: passes over the lines of manifests, cut into chapters that can be begun anywhere.

A pass is a permutation of all lines, decided by the seed and the number of the pass. Batches are made chapter by
chapter: a resumed run reads again only the lines of the chapter in which it stopped. Of large data, the permutation
is computed for the lines of a chapter alone.
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


PIECE_LINES = 1_000
"""Lines of the pieces of a file that is longer than a chapter, where chapters have whole files."""

SHUFFLED_MOST = 1 << 20
"""Lines that are shuffled as a whole; to shuffle 20 million takes seconds, and their order 80 MB in each process."""

_ROUNDS = 6
"""Of the network that computes a permutation; three already look random, four to whoever may ask as he likes."""


Line = tuple[int, int]
"""The pass in which a line is read, and its row: its position in all files together."""


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


class Cut(NamedTuple):
    """How passes are cut into chapters, which a checkpoint keeps.

    Attributes:
        lines: of a chapter, about.
        shuffled_most: lines that are shuffled as a whole; None: however many.
        piece_lines: of the pieces that long files come in, about; None: files are never divided.
    """

    lines: int = CHAPTER_LINES
    shuffled_most: int | None = SHUFFLED_MOST
    piece_lines: int | None = PIECE_LINES


class Chapters:
    """Which lines belong to which chapter; the same for everybody who has the seed.

    Args:
        lines: lines of each file; a chapter has all of some files where their lines are in tar files of their own
            (``whole_files``), so that it reads from few of these. Files that are longer than a chapter are divided:
            their lines stand as they lie in tars.
        key: seeds the permutations, together with the number of the pass.
        shuffle: False for the order in which the lines stand.
        whole_files: see ``lines``.
        cut: how they are cut.
    """

    def __init__(
        self,
        lines: Sequence[int],
        key: Sequence[int],
        shuffle: bool = True,
        whole_files: bool = False,
        cut: Cut | None = None,
    ):
        cut = cut or Cut()
        if whole_files and cut.piece_lines is not None:
            lines = [piece for file in lines for piece in _pieces(file, cut.lines, cut.piece_lines)]
        self.first = np.concatenate([[0], np.cumsum(lines)]).astype(np.int64)
        self.key = tuple(key)
        self.shuffle = shuffle
        self.whole_files = whole_files
        total = int(self.first[-1])
        self.passes = max(1, -(-FEWEST_LINES // total))
        most = len(lines) if whole_files else total
        chapters = max(1, round(total / cut.lines))
        self.per_pass = 1 if self.passes > 1 else min(chapters, most)
        self._shuffled_most = float("inf") if cut.shuffled_most is None else cut.shuffled_most
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0))

    def rows(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (pass, rows) of a chapter; a row is a line's position in all files together."""
        for turn in range(number // self.per_pass * self.passes, (number // self.per_pass + 1) * self.passes):
            yield turn, self._part(turn, number % self.per_pass)

    def _part(self, turn: int, part: int) -> np.ndarray:
        if not self.whole_files or self.per_pass == 1:
            return self._share(turn, part, int(self.first[-1]))
        files = self._share(turn, part, len(self.first) - 1)
        rows = np.concatenate([np.arange(self.first[file], self.first[file + 1]) for file in files])
        if self.shuffle:
            np.random.default_rng((*self.key, turn, part)).shuffle(rows)
        return rows

    def _share(self, turn: int, part: int, size: int) -> np.ndarray:
        """A chapter's part of the numbers below ``size``, in the order of a pass."""
        begin, end = size * part // self.per_pass, size * (part + 1) // self.per_pass
        if not self.shuffle:
            return np.arange(begin, end)
        if size > self._shuffled_most:
            return permuted(np.arange(begin, end), size, (*self.key, turn))
        return self._shuffled(turn, size)[begin:end]

    def _shuffled(self, turn: int, size: int) -> np.ndarray:
        if self._last[0] != turn:
            numbers = np.arange(size, dtype=np.uint32 if size < 1 << 32 else np.uint64)
            np.random.default_rng((*self.key, turn)).shuffle(numbers)
            self._last = turn, numbers
        return self._last[1]


def _pieces(lines: int, most: int, about: int) -> list[int]:
    """The lines of each piece of a file: all, or those of nearly equal pieces if it has more than ``most``."""
    count = 1 if lines <= most else max(1, round(lines / about))
    return [lines * (piece + 1) // count - lines * piece // count for piece in range(count)]


def permuted(positions: np.ndarray, size: int, key: Sequence[int]) -> np.ndarray:
    """What stands at some positions of a permutation of the numbers below ``size`` that the key decides.

    A Feistel network permutes the numbers of an even number of bits; from one that is too large it goes on to the next
    (Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002: cycle walking).
    """
    half = np.uint64((max(2, (size - 1).bit_length()) + 1) // 2)
    keys = np.random.default_rng(tuple(key)).integers(0, 1 << 64, _ROUNDS, dtype=np.uint64)
    found = _network(positions.astype(np.uint64), half, keys)
    while (large := found >= size).any():
        found[large] = _network(found[large], half, keys)
    return found.astype(np.int64)


def _network(numbers: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    """A permutation of the numbers of ``2 * half`` bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Each bit of the result depends on all of a number (the end of SplitMix64: Steele, Lea and Flood, 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))

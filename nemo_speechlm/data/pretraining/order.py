"""The order in which manifests with units are read: fresh permutations of all their lines, shared among workers."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from nemo.utils import logging
from torch.utils.data import get_worker_info

from nemo_speechlm.data.manifests.line_index import LineIndex
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, parse_line
from nemo_speechlm.units.inventory import UnitInventory

SURVEYED = 50_000
"""Lines of a manifest that are checked, and counted by the filters, before training starts."""

_BARREN_PASSES = 1000
"""Passes over one share of the lines, all of them left out, that are taken for an endless loop."""


Key = tuple[int, ...]


class Order(NamedTuple):
    """In which order, and by whom, a manifest is read.

    Attributes:
        seed: of the order, of crops and of drawn durations.
        rank: of this process among ``world_size``; with the data loader's workers they share each pass.
        world_size: number of processes.
        shuffle: a random order, another one in each pass.
        finite: end after one pass.
    """

    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    finite: bool = False


class UnitReader(ABC):
    """Iterates over examples made of manifest lines.

    The manifests are indexed, and ``SURVEYED`` of their lines are checked, when it is made: a wrong inventory or frame
    rate is an error at the start and not in the middle. The number of lines left out, by reason, is logged.

    Attributes:
        start: batches delivered before training was resumed; another start is another order.
    """

    required: ClassVar[tuple[str, ...]] = ("units",)
    kind: ClassVar[int] = 0  # part of the seeds: equally long manifests of two kinds have unrelated orders

    def __init__(self, manifests: Sequence[str], inventory: UnitInventory, order: Order):
        self.inventory = inventory
        self.order = order
        self.start = 0
        self._files = [LineIndex(path) for path in manifests]
        self._first = [0, *accumulate(map(len, self._files))]

    @abstractmethod
    def _example(self, record: Record, file: LineIndex, number: int, key: Key | None) -> Any:
        """The example of a record, or the reason (a string) why it is left out.

        ``key`` seeds what is random in it; if it is None, nothing need be.
        """

    def __len__(self) -> int:
        return self._first[-1]

    def __iter__(self) -> Iterator[Any]:
        barren = 0
        for turn, rows in self._passes():
            found = False
            for row in rows:
                example = self._read(int(row), turn)
                if not isinstance(example, str):
                    found = True
                    yield example
            barren = 0 if found else barren + 1
            if barren == _BARREN_PASSES:
                raise InputError("all lines are left out by the filters", self._files[0].path)

    def _passes(self) -> Iterator[tuple[int, np.ndarray | range]]:
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        share = self.order.rank * workers + (0 if worker is None else worker.id)
        shares = self.order.world_size * workers
        for turn in range(1) if self.order.finite else count():
            if not self.order.shuffle:
                yield turn, range(share, len(self), shares)
            elif len(self) >= shares or self.order.finite:
                yield turn, self._permutation(turn)[share::shares].copy()
            else:  # too few lines to share: all read all, each in its own order
                yield turn * shares + share, self._permutation(turn, share)

    def _permutation(self, *key: int) -> np.ndarray:
        rows = np.arange(len(self), dtype=np.uint32)
        np.random.default_rng((self.order.seed, self.kind, self.start, *key)).shuffle(rows)
        return rows

    def _read(self, row: int, turn: int | None) -> Any:
        position = bisect_right(self._first, row) - 1
        file = self._files[position]
        number, line = file[row - self._first[position]]
        record = parse_line(line, file.path, number, self.required)
        key = None if turn is None else (self.order.seed, self.kind, self.start, turn, row)
        return self._example(record, file, number, key)

    def _survey(self) -> None:
        """Read lines all over each manifest; raise what is wrong with them, log what the filters leave out."""
        reasons: Counter[str] = Counter()
        total = 0
        for begin, end in pairwise(self._first):
            rows = np.unique(np.linspace(begin, end - 1, min(end - begin, SURVEYED)).astype(np.int64))
            total += len(rows)
            for row in rows:
                example = self._read(int(row), None)
                if isinstance(example, str):
                    reasons[example] += 1
        names = ", ".join(str(file.path) for file in self._files)
        if sum(reasons.values()) == total:
            raise InputError(f"all of {total} lines are left out: {_tally(reasons)}", names)
        if reasons and self.order.rank == 0:
            of = f"{total} lines" if total == len(self) else f"{total} of {len(self)} lines looked at"
            logging.info(f"{names}: {sum(reasons.values())} of {of} are left out: {_tally(reasons)}")


def _tally(reasons: Counter[str]) -> str:
    return "; ".join(f"{number} {reason}" for reason, number in reasons.most_common())

"""The batches of one stream, as everybody sees them: the same sequence on all ranks and in all workers."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lhotse.dataset.sampling.base import CutSampler

from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.pretraining.chapters import Cut
from nemo_speechlm.data.pretraining.manifest_reader import ManifestReader
from nemo_speechlm.errors import InputError

_BARREN_CHAPTERS = 100
"""Chapters without a batch, one after the other, that are taken for an endless loop."""

_MIXED_BATCHES = 1000
"""Batches of a chapter where the data are a mixture by weight, which has no end of its own."""


class Position(NamedTuple):
    """A place in the sequence.

    Attributes:
        chapter: number of the chapter.
        batch: batches of it that lie behind.
    """

    chapter: int = 0
    batch: int = 0


class BatchSequence:
    """Endless batches, chapter after chapter, each decided by the seed and its number alone.

    Args:
        sampler: makes batches of what its readers give; it is copied for each chapter, so it begins as if new.
        exact: it reads one reader to its end; otherwise a chapter ends after ``_MIXED_BATCHES``.
        shared: it can begin anywhere without reading audio, so everybody goes through the whole sequence. Otherwise
            there is but one chapter, and each worker of each rank has a sequence of its own.
        source: named in messages.
    """

    def __init__(self, sampler: CutSampler, exact: bool, shared: bool, source: str):
        self.sampler = sampler
        self.exact = exact
        self.shared = shared
        self.source = source
        self.readers = readers_of(sampler)

    def batches(
        self,
        start: Position = Position(),  # noqa: B008 - immutable
        passed: Callable[[], object] = lambda: None,
    ) -> Iterator[tuple[Position, Any]]:
        """Yield batches from ``start`` on, each with the position behind it; ``passed`` is called at each before."""
        self.take_bad()
        chapter, skipped, barren = start.chapter, start.batch, 0
        while True:
            found = 0
            for found, batch in enumerate(self._chapter(chapter), start=1):
                if found > skipped:
                    yield Position(chapter, found), batch
                else:
                    passed()
                    self.take_bad()  # they were counted before
            barren = 0 if found else barren + 1
            if barren == _BARREN_CHAPTERS:
                raise InputError("all lines are left out by the filters", self.source)
            chapter, skipped = chapter + 1, max(0, skipped - found)  # what is not shared counts through its passes

    def cut_chapters(self, cut: Cut) -> None:
        """Have chapters that are cut in this way."""
        for reader in self.readers:
            reader.cut_chapters(cut)

    def take_bad(self) -> tuple[BadExample, ...]:
        """The lines that readers have left out since the last call, because they cannot be used."""
        return tuple(bad for reader in self.readers for bad in reader.take_bad())

    def _chapter(self, number: int) -> Iterator[Any]:
        for reader in self.readers:
            reader.chapter = number
        sampler = copy.deepcopy(self.sampler)
        sampler.set_epoch(number)
        for count, batch in enumerate(sampler, start=1):
            yield batch
            if self.shared and not self.exact and count == _MIXED_BATCHES:
                return


def readers_of(root: Any) -> list[ManifestReader]:
    """Our readers inside a sampler and Lhotse's wrappers around cuts."""
    found, seen, stack = [], set(), [root]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, ManifestReader):
            found.append(item)
        elif isinstance(item, list | tuple):
            stack.extend(item)
        elif type(item).__module__.split(".")[0] in ("lhotse", "nemo_speechlm"):
            stack.extend(vars(item).values() if hasattr(item, "__dict__") else ())
    return found

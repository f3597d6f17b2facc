"""The batches of one stream, as everybody sees them: the same sequence on all ranks and in all workers."""

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lhotse import CutSet
from lhotse.dataset.sampling.base import CutSampler
from lhotse.lazy import LazyFilter, LazyFlattener, LazyMapper
from nemo.collections.common.data.lhotse import dataloader

import nemo_speechlm
from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.pretraining.chapters import Cut, Line
from nemo_speechlm.data.pretraining.manifest_reader import ManifestReader, line_of
from nemo_speechlm.data.pretraining.plans import Plan, PlannedBatch, Plans
from nemo_speechlm.errors import InputError
from nemo_speechlm.jobs.versions import versions

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
        decided_by: the config that decides the batches, where they are to be planned (see
            :mod:`~nemo_speechlm.data.pretraining.plans`); None: whoever goes through the sequence reads all lines.
    """

    def __init__(self, sampler: CutSampler, exact: bool, shared: bool, source: str, decided_by: Any = None):
        self.sampler = sampler
        self.exact = exact
        self.shared = shared
        self.source = source
        self.readers = readers_of(sampler)
        self.decided_by = decided_by if exact and shared and _in_any_order(sampler) else None
        if self.decided_by is not None:
            _digest_of_code()  # once, before there are workers
        self._bad: list[BadExample] = []
        self._cut: Cut | None = None
        self._plans: Plans | None = None
        self._ahead_of: int | None = None

    def batches(
        self,
        start: Position = Position(),  # noqa: B008 - immutable
        passed: Callable[[], object] = lambda: None,
    ) -> Iterator[tuple[Position, Callable[[], CutSet]]]:
        """Yield what gives the batches, from ``start`` on, each with the position behind it.

        ``passed`` is called at each before.
        """
        self.take_bad()
        chapter, skipped, barren = start.chapter, start.batch, 0
        self._plans = None if self.decided_by is None else Plans(self._key(), self._plan)
        while True:
            found, plan = 0, None
            if self._plans is not None:  # the first batch is there sooner if nobody plans its chapter before
                plan = self._plans.at_hand(chapter) if chapter == start.chapter else self._plans.of(chapter, passed)
                self._ahead_of = chapter
            for found, batch in enumerate(self._batches_of(chapter, plan), start=1):
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
        self._cut = cut
        for reader in self.readers:
            reader.cut_chapters(cut)

    def plan_ahead(self) -> None:
        """Plan a chapter behind that of the last batch, where there is one to plan; once for each chapter."""
        chapter, self._ahead_of = self._ahead_of, None
        if chapter is not None and self._plans is not None:
            self._plans.make_ahead(chapter)

    def take_bad(self) -> tuple[BadExample, ...]:
        """The lines that readers have left out since the last call, because they cannot be used."""
        found, self._bad = self._bad, []
        return (*found, *(bad for reader in self.readers for bad in reader.take_bad()))

    def _batches_of(self, number: int, plan: Plan | None) -> Iterator[Callable[[], CutSet]]:
        if plan is None or plan.batches is None:
            for batch in self._chapter(number):
                yield functools.partial(_as_it_is, batch)
            return
        for planned in plan.batches:
            self._bad += planned.bad
            yield functools.partial(self._read, planned.lines)
        self._bad += plan.rest

    def _plan(self, number: int) -> Plan:
        """Plan a chapter, while another may be under way."""
        self._bad = list(self.take_bad())
        (reader,) = self.readers
        batches: list[PlannedBatch] = []
        reader.tells_lines = True
        try:
            for batch in self._chapter(number):
                lines = [line_of(example) for example in batch]
                if None in lines:
                    return Plan(None, [])
                batches.append(PlannedBatch(lines, reader.take_bad()))  # type: ignore[arg-type]
            return Plan(batches, reader.take_bad())
        except InputError:  # which is told of when training comes to it
            return Plan(None, [])
        finally:
            reader.tells_lines = False
            reader.take_bad()

    def _read(self, lines: Sequence[Line]) -> CutSet:
        """The examples of a batch that was planned."""
        (reader,) = self.readers
        reader.given = lines
        try:
            examples = list(self.sampler.cuts[0])  # type: ignore[attr-defined]
        finally:
            reader.given = None
        if len(examples) != len(lines):
            raise InputError(
                "was changed while it was read; start again", ", ".join(str(f.path) for f in reader.files)
            )
        return CutSet(examples)

    def _key(self) -> str:
        """Of all that decides which lines a batch has."""
        (reader,) = self.readers
        what = {
            "config": self.decided_by,
            "cut": self._cut,
            "files": [(str(file.path), file.state) for file in reader.files],
            "versions": versions(("python", "numpy", "lhotse", "nemo_toolkit")),
            "code": _digest_of_code(),
        }
        return hashlib.sha256(json.dumps(what, default=_told_of).encode()).hexdigest()[:32]

    def _chapter(self, number: int) -> Iterator[CutSet]:
        for reader in self.readers:
            reader.chapter = number
        sampler = copy.deepcopy(self.sampler)
        sampler.set_epoch(number)
        for count, batch in enumerate(sampler, start=1):
            yield batch
            if self.shared and not self.exact and count == _MIXED_BATCHES:
                return


def _as_it_is(batch: CutSet) -> CutSet:
    return batch


_PURE = {"resample", "_flatten_alt_text", "_select_channel"}
"""NeMo's functions that make the same of an example, whichever came before."""


def _in_any_order(sampler: CutSampler) -> bool:
    """Whether an example is the same in whatever order it is read: nothing is drawn between a reader and a batch."""
    if sampler._transforms or len(getattr(sampler, "cuts", ())) != 1 or len(readers_of(sampler)) != 1:
        return False
    item: Any = sampler.cuts[0]  # type: ignore[attr-defined]
    while not isinstance(item, ManifestReader):
        if isinstance(item, CutSet):
            item = item.data
        elif isinstance(item, LazyMapper):
            function = item.fn.func if isinstance(item.fn, functools.partial) else item.fn
            if function.__module__ != dataloader.__name__ or function.__name__ not in _PURE:
                return False
            item = item.iterator
        elif isinstance(item, LazyFilter | LazyFlattener):
            item = item.iterator
        else:
            return False
    return True


def _told_of(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else repr(value)


@functools.cache
def _digest_of_code() -> str:
    """Of this package's code, which may change under one version while somebody works on it."""
    found = hashlib.sha256()
    for path in sorted(Path(nemo_speechlm.__file__).parent.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


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

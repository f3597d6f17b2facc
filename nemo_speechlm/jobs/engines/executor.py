"""The part of every engine that is the same: which chunks are next, and what to do about those that failed."""

import os
import uuid
from abc import ABC, abstractmethod
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from nemo_speechlm.checks import check_whole
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.jobs.chunks import BatchedLines, Chunk, part_path, seal
from nemo_speechlm.jobs.engines.pool import Attempt, Died, Done, Pool, Progress, Stopped
from nemo_speechlm.jobs.work import ChunkWork, hung_in

LARGEST = 4096
"""Lines of a chunk at most, whole batches aside."""


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Resources:
    """What a job may use.

    Attributes:
        workers: at most so many at once.
        cpus: of each worker, where the engine counts them.
        gpus: of each worker, where the engine counts them; several workers share a GPU if it is a fraction.
    """

    workers: int = 1
    cpus: float = 1
    gpus: float = 0


@dataclass(frozen=True)
class Executor(ABC):
    """Runs the chunks of a job. Subclasses say where.

    Attributes:
        timeout: seconds that a batch of lines may take; None waits for ever.
        retries: how often the same batch may fail before it is to blame.
    """

    timeout: float | None = None
    retries: int = 2

    def __post_init__(self) -> None:
        if self.timeout is not None and not (isinstance(self.timeout, int | float) and self.timeout > 0):
            raise SpeechLMError(f"engine.timeout is {self.timeout!r}, expected seconds, or null")
        check_whole("engine.retries", self.retries, 0)

    @abstractmethod
    def default_workers(self, most: int | None = None) -> int:
        """How many workers there are unless the user names a number.

        Args:
            most: that the work is good for on one machine; None is any number.
        """

    def in_this_process(self, workers: int | None) -> bool:
        """Whether a job with this many workers runs in the current process.

        Args:
            workers: None is what suits work that is good for one process on a machine, such as a model's.
        """
        return False

    @abstractmethod
    def run(
        self,
        work: ChunkWork,
        chunks: Iterable[Chunk],
        resources: Resources,
        timeout: float | None = None,
        retries: int = 2,
        advance: Callable[[int], None] = lambda lines: None,
    ) -> None:
        """Make the files of all chunks.

        Chunks are cut smaller as it suits the workers. When a worker dies, or has no result of a batch in time,
        what it had done is kept and the rest is tried again. A batch that was tried ``retries`` times more is divided
        until the line is found that does it; this line is bad.

        Args:
            work: what to do with them.
            chunks: lines that are not done yet.
            resources: for the workers.
            timeout: seconds that a batch may take; None waits for ever.
            retries: how often the same batch may fail before it is to blame.
            advance: called with the number of lines that were done meanwhile; negative if they are to be done again.

        Raises:
            InputError: at the first bad line, unless the work skips them.
            SpeechLMError: if the workers die before they begin.
        """


@dataclass(frozen=True)
class PoolExecutor(Executor):
    """Gives chunks to the workers of a pool, one after the other. Subclasses make the pool."""

    @abstractmethod
    def pool(self, work: ChunkWork, resources: Resources) -> Pool:
        """The workers."""

    def run(
        self,
        work: ChunkWork,
        chunks: Iterable[Chunk],
        resources: Resources,
        timeout: float | None = None,
        retries: int = 2,
        advance: Callable[[int], None] = lambda lines: None,
    ) -> None:
        """Make the files of all chunks, see :meth:`Executor.run`. Chunks become smaller towards the end."""
        work = replace(work, timeout=timeout)
        queue = _Queue(chunks, work.batches, resources.workers)
        run = _Run(work, queue, retries, advance)
        if not queue.lines:
            return
        with self.pool(work, resources) as pool:
            pool.heed = run.heed
            while queue.lines or run.attempts:
                while pool.free and (chunk := queue.take(run.limit)):
                    pool.submit(run.begin(chunk))
                if not run.awaited() and not queue.reaches(run.limit):
                    break
                for event in pool.wait():
                    run.heed(event)
        run.end()


class _Queue:
    """Lines that nobody works on. Chunks become smaller towards the end, so that all workers end together."""

    def __init__(self, chunks: Iterable[Chunk], batches: BatchedLines, workers: int):
        self._chunks, self._batches, self._workers = sorted(chunks), batches, max(1, workers)
        self.lines = sum(chunk.size for chunk in self._chunks)

    def take(self, limit: float) -> Chunk | None:
        """The first lines, as many as are good for a worker; None if there are none below ``limit``."""
        if not self.reaches(limit):
            return None
        chunk = self._chunks.pop(0)
        wanted = min(LARGEST, self.lines // (8 * self._workers if self._workers > 1 else 1))
        end = self._batches.end(chunk.first, chunk.last)
        if wanted > end - chunk.first:
            end = min(max(end, self._batches.begin(chunk.first + wanted)), chunk.last)
        self._chunks[:0] = [Chunk(end, chunk.last)] if end < chunk.last else []
        self.lines -= end - chunk.first
        return Chunk(chunk.first, end)

    def reaches(self, limit: float) -> bool:
        """Whether there are lines below ``limit``."""
        return bool(self._chunks) and self._chunks[0].first < limit

    def put(self, chunk: Chunk) -> None:
        """Give lines back."""
        if chunk.size > 0:
            insort(self._chunks, chunk)
            self.lines += chunk.size


class _Run:
    """The state of a run: attempts under way, deaths counted, the first line that ends the job."""

    def __init__(self, work: ChunkWork, queue: _Queue, retries: int, advance: Callable[[int], None]):
        self._work, self._queue, self._retries, self._advance = work, queue, retries, advance
        self.attempts: dict[Attempt, int] = {}  # lines that were said to be done
        self._deaths: Counter[int] = Counter()  # by the line that a batch begins with
        self._stillborn = 0
        self._stopped: Stopped | None = None

    @property
    def limit(self) -> float:
        """Lines from here on need not be done: the job ends before them."""
        return float("inf") if self._stopped is None else self._stopped.position

    def begin(self, chunk: Chunk) -> Attempt:
        attempt = Attempt(chunk, uuid.uuid4().hex)
        self.attempts[attempt] = 0
        return attempt

    def awaited(self) -> bool:
        """Whether an attempt is under way that matters."""
        return any(attempt.chunk.first < self.limit for attempt in self.attempts)

    def heed(self, event: object) -> None:
        """Do what an event asks for."""
        if isinstance(event, Progress):
            self.attempts[event.attempt] += event.lines
            self._advance(event.lines)
        elif isinstance(event, Done):
            self._stillborn = 0
            self._advance(event.attempt.chunk.size - self.attempts.pop(event.attempt))
        elif isinstance(event, Stopped):
            self._keep(event.attempt)
            if event.position < self.limit:
                self._stopped = event
        elif isinstance(event, Died):
            self._blame(event)

    def end(self) -> None:
        """Raise what ended the job."""
        if self._stopped is not None:
            raise self._stopped.error

    def _keep(self, attempt: Attempt) -> int:
        """Keep what an attempt had done; returns the first line that it had not."""
        part = part_path(self._work.folder, attempt.chunk, attempt.name)
        position = seal(part, self._work.folder, self._work.plan, attempt.chunk, self._work.batches)
        self._advance(position - attempt.chunk.first - self.attempts.pop(attempt))
        return position

    def _blame(self, event: Died) -> None:
        """Try again what a dead worker left, or find the line to blame."""
        chunk, part = event.attempt.chunk, part_path(self._work.folder, *event.attempt)
        where = hung_in(part)
        how = event.how if where is None else f"no result within timeout={self._work.timeout:g} seconds ({where})"
        began = part.exists()
        position = self._keep(event.attempt)
        if not began:
            self._stillborn += 1
            if self._stillborn > self._retries:
                raise SpeechLMError(f"worker processes die before they begin: {how}")
            self._queue.put(chunk)
            return
        self._stillborn = 0
        if position == chunk.last:  # it died behind its last line
            return
        self._deaths[position] += 1
        end = self._work.batches.end(position, chunk.last)
        if self._deaths[position] <= self._retries:
            self._queue.put(Chunk(position, chunk.last))
            return
        self._queue.put(Chunk(end, chunk.last))
        if end - position == 1:
            self._stop_or_skip(event, position, f"{how}, {self._deaths[position]} times")
            return
        middle = (position + end) // 2
        self._deaths[position] = self._deaths[middle] = self._retries  # the next death divides further
        self._queue.put(Chunk(position, middle))
        self._queue.put(Chunk(middle, end))

    def _stop_or_skip(self, event: Died, position: int, reason: str) -> None:
        try:
            self._work.skip_line(position, reason)
            self._advance(1)
        except InputError as error:
            if position < self.limit:
                self._stopped = Stopped(event.attempt, position, error)

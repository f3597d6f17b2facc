"""Jobs in processes of this machine, or in this very process."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from nemo_speechlm.jobs.engines.executor import PoolExecutor, Resources, available_cores
from nemo_speechlm.jobs.engines.pool import Attempt, Died, Done, Event, Pool, Progress, Stopped, attempt_at, picklable
from nemo_speechlm.jobs.work import BadLine, ChunkWork

_SECONDS = 0.5
"""Between two words of a worker about its progress."""


@dataclass(frozen=True)
class LocalEngine(PoolExecutor):
    """Processes of this machine.

    With one worker and no timeout the work is done in this process: a crash there ends the job.
    """

    def default_workers(self, most: int | None = None) -> int:
        """One for each core that this process may use."""
        return min(available_cores(), most or available_cores())

    def in_this_process(self, workers: int | None) -> bool:
        """See :class:`Executor`."""
        return (workers or 1) <= 1 and self.timeout is None

    def pool(self, work: ChunkWork, resources: Resources) -> Pool:
        """The processes, or this one."""
        if resources.workers <= 1 and work.timeout is None:
            return InThisProcess(work)
        return Processes(work, resources.workers)


class InThisProcess(Pool):
    """The only worker is this process."""

    def __init__(self, work: ChunkWork):
        self._make, self._given = work.start(), deque[Attempt]()

    @property
    def free(self) -> int:
        """One chunk at a time."""
        return 1 - len(self._given)

    def submit(self, attempt: Attempt) -> None:
        """Take a chunk; it is made when it is waited for."""
        self._given.append(attempt)

    def wait(self) -> list[Event]:
        """Make the chunk's file."""
        attempt = self._given.popleft()
        try:
            self._make(*attempt, _now_and_then(self.heed, attempt))
        except BadLine as bad:
            return [Stopped(attempt, bad.position, bad.error)]
        return [Done(attempt)]

    def close(self) -> None:
        """Nothing has to be ended."""


class Processes(Pool):
    """Worker processes, each with a pipe; one that died is replaced."""

    def __init__(self, work: ChunkWork, workers: int):
        self._work, self._workers = work, max(1, workers)
        self._context = multiprocessing.get_context("spawn")
        self._stop, self._running = self._context.Pipe(duplex=False)  # its end ends all workers, if this process dies
        self._processes: dict[Connection, Any] = {}
        self._given: dict[Connection, Attempt] = {}

    @property
    def free(self) -> int:
        """Workers without a chunk, or that could be started."""
        return self._workers - len(self._given)

    def submit(self, attempt: Attempt) -> None:
        """Give a process a chunk; start it if all have one."""
        pipe = next((each for each in self._processes if each not in self._given), None) or self._start()
        self._given[pipe] = attempt
        with suppress(OSError):  # it died while it had nothing to do; waiting for it tells how
            pipe.send(attempt)

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, theirs, self._stop), daemon=True)
        with _threads(max(1, available_cores() // self._workers)):
            process.start()
        theirs.close()
        self._processes[ours] = process
        return ours

    def wait(self) -> list[Event]:
        """Wait for a word of a process, or its end."""
        events: list[Event] = []
        for pipe in wait(list(self._given)):
            assert isinstance(pipe, Connection)
            try:
                event = pipe.recv()
            except (EOFError, OSError):
                process = self._processes.pop(pipe)
                process.join()
                pipe.close()
                events.append(Died(self._given.pop(pipe), _how(process.exitcode)))
                continue
            if isinstance(event, Exception):
                raise event
            if not isinstance(event, Progress):
                del self._given[pipe]
            events.append(event)
        return events

    def close(self) -> None:
        """Kill all; what they had done is on the disk."""
        for process in self._processes.values():
            process.kill()
        for pipe, process in self._processes.items():
            process.join()
            pipe.close()
        self._processes.clear()
        for end in (self._stop, self._running):
            end.close()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Processes that are started meanwhile compute in so many threads, unless the user has said how many."""
    name = "OMP_NUM_THREADS"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(count)
    try:
        yield
    finally:
        del os.environ[name]


def _how(status: int) -> str:
    """How a process ended, for the user."""
    if status >= 0:
        return f"a worker process died on it (exit status {status})"
    name = signal.Signals(-status).name
    return f"a worker process died on it ({name}{'; out of memory?' if name == 'SIGKILL' else ''})"


def _serve(work: ChunkWork, pipe: Connection, stop: Connection) -> None:
    """What a process does until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    multiprocessing.current_process().daemon = False  # it may start processes, which read ahead
    threading.Thread(target=_exit_at_end_of, args=(stop,), daemon=True).start()
    try:
        make = work.start()
    except Exception as error:
        pipe.send(picklable(error))
        return
    while True:
        try:
            attempt = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt_at(make, attempt, _now_and_then(pipe.send, attempt)))


def _now_and_then(tell: Callable[[Event], None], attempt: Attempt) -> Callable[[int], None]:
    """Sum up numbers of lines, and tell the sum when some time has passed."""
    lines, said = 0, time.monotonic()

    def done(count: int) -> None:
        nonlocal lines, said
        lines += count
        if time.monotonic() - said > _SECONDS:
            tell(Progress(attempt, lines))
            lines, said = 0, time.monotonic()

    return done


def _exit_at_end_of(stop: Connection) -> None:
    """End this process once the other end of the pipe is closed, by the parent or by its death."""
    stop.poll(None)
    os._exit(1)

"""The processes of a job: lines go out, results come back in the order of the lines."""

import functools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

from nemo_speechlm.errors import InputError, SkipItem, SpeechLMError
from nemo_speechlm.jobs.types import BatchWork, Result, Work


def results_of(
    lines: Iterator[tuple[int, str]],
    make_work: Callable[[], Work] | Callable[[], BatchWork],
    workers: int,
    remaining: int,
    batch_size: int | None,
) -> Generator[tuple[int, Result], None, None]:
    """Yield (line number, result) of every line, in the order of the lines."""
    if not remaining:
        return
    if batch_size is not None:
        make_work = functools.partial(_Batches, make_work, batch_size)  # type: ignore[arg-type, assignment]
    else:
        make_work = functools.partial(_Lines, make_work)  # type: ignore[arg-type, assignment]
    batch = batch_size or 1
    workers = min(workers, -(-remaining // batch))
    if workers <= 1:
        _start_worker(make_work)
        while chunk := list(islice(lines, batch)):
            yield from _many(chunk)
        return
    size = batch * max(1, min(64, remaining // (workers * 8)) // batch)
    context = multiprocessing.get_context("spawn")
    pending: deque[Future[list[tuple[int, Result]]]] = deque()
    stop, running = context.Pipe(duplex=False)
    with stop, running, ProcessPoolExecutor(workers, context, _start_child, (make_work, stop)) as pool:
        try:
            while True:
                # a bounded window, so that a file of any length is never in memory
                while len(pending) < 4 * workers and (chunk := list(islice(lines, size))):
                    pending.append(pool.submit(_many, chunk))
                if not pending:
                    return
                yield from pending.popleft().result()
        except BrokenProcessPool as error:
            raise SpeechLMError(
                "a worker process died (out of memory, or a crash in a library); what is done is kept: "
                "run again to go on, with workers=1 to see the crash itself"
            ) from error
        finally:
            if pending:  # after an error or an interrupt, the workers' results are not needed
                running.close()


class _Lines:
    """Work on single lines, applied to a chunk of them."""

    def __init__(self, make_work: Callable[[], Work]):
        self._work = make_work()

    def __call__(self, chunk: list[tuple[int, str]]) -> list[tuple[int, Result]]:
        return [(number, self._one(number, line)) for number, line in chunk]

    def _one(self, number: int, line: str) -> Result:
        try:
            return self._work(number, line)
        except (InputError, SkipItem) as error:
            return error


class _Batches:
    """Work on batches, applied to a chunk of whole ones (and the last)."""

    def __init__(self, make_work: Callable[[], BatchWork], size: int):
        self._work, self._size = make_work(), size

    def __call__(self, chunk: list[tuple[int, str]]) -> list[tuple[int, Result]]:
        results: list[tuple[int, Result]] = []
        for start in range(0, len(chunk), self._size):
            batch = chunk[start : start + self._size]
            numbers = (number for number, _ in batch)
            results.extend(zip(numbers, self._work(batch), strict=True))
        return results


_work: Callable[[list[tuple[int, str]]], list[tuple[int, Result]]]
_work_failure: SpeechLMError | None = None


def _start_worker(make_work: Callable[[], Any]) -> None:
    global _work, _work_failure
    _work, _work_failure = make_work(), None


def _start_child(make_work: Callable[[], Any], stop: Connection) -> None:
    global _work_failure
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    threading.Thread(target=_exit_at_end_of, args=(stop,), daemon=True).start()
    try:
        _start_worker(make_work)
    except SpeechLMError as error:  # leaving an initializer, it would reach the parent as "a process died"
        _work_failure = error


def _exit_at_end_of(stop: Connection) -> None:
    """End this process once the other end of the pipe is closed, by the parent or by its death."""
    stop.poll(None)
    os._exit(1)


def _many(chunk: list[tuple[int, str]]) -> list[tuple[int, Result]]:
    if _work_failure is not None:
        raise _work_failure
    return _work(chunk)


def default_workers() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

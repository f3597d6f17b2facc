"""What a worker does, on every engine: lines of a chunk in, a chunk file out."""

import faulthandler
import functools
import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_speechlm.errors import InputError, OutputError, SkipItem
from nemo_speechlm.files import Record, dump_line, is_full
from nemo_speechlm.jobs.chunks import BatchedLines, Chunk, ChunkWriter, part_path
from nemo_speechlm.jobs.lines import LineIndex
from nemo_speechlm.jobs.types import BatchWork, Result, Work

Numbered = Sequence[tuple[int, str]]


class BadLine(Exception):
    """The first line of a chunk that ends the job.

    Args:
        position: of the line in the job, from 0.
        error: for the user.
    """

    def __init__(self, position: int, error: InputError):
        super().__init__(position, error)
        self.position, self.error = position, error


class BrokenProcess(Exception):
    """Nothing works in this process any more; another one is to go on."""


class Unexpected(Exception):
    """An exception other than the ones that work raises on purpose."""

    def __init__(self, error: Exception):
        self.error = error
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        self.reason = f"{said} ({Path(place.filename).name}:{place.lineno})"


@dataclass(frozen=True)
class ChunkWork:
    """How chunks of a job are made; it is picklable, and the same in every worker.

    Attributes:
        folder: the job's, which every worker sees.
        plan: its digest.
        source: what messages name.
        make_work: makes the function over lines, once in each worker.
        batches: of lines, which are given to that function at once.
        single: whether it is a function over one line.
        skip_bad: write down why a line is bad and go on.
        timeout: seconds that a batch may take; the process ends then. None waits for ever.
    """

    folder: Path
    plan: str
    source: Path
    make_work: Callable[[], Work] | Callable[[], BatchWork]
    batches: BatchedLines
    single: bool
    skip_bad: bool
    timeout: float | None = None

    def start(self) -> "ChunkMaker":
        """Make the function over lines; this may take long, and raise."""
        return ChunkMaker(self)

    def skipped(self, error: Exception, number: int) -> Record:
        """The record of a skipped line: whether it is bad, and the file at fault if that is not the source."""
        record: Record = {"_skipped": getattr(error, "reason", str(error)), "_line": number}
        if not isinstance(error, SkipItem):
            record["_bad"] = True
        path = getattr(error, "path", None)
        return record if path in (None, str(self.source)) else record | {"_path": path}

    def skip_line(self, position: int, reason: str) -> None:
        """Write the chunk of a single line that is skipped.

        Raises:
            InputError: if bad lines end the job.
        """
        ((number, _),) = LineIndex.load(self.folder).read(position, position + 1)
        error = InputError(reason, self.source, number)
        if not self.skip_bad:
            raise InputError(f"{reason}; skip_bad=true leaves such lines out", self.source, number)
        with ChunkWriter(self.folder, self.plan, Chunk(position, position + 1), "skipped") as writer:
            writer.write([dump_line(self.skipped(error, number)).encode()])


class ChunkMaker:
    """A worker's function: makes the files of the chunks that it is called with."""

    def __init__(self, work: ChunkWork):
        self._job, self._index = work, LineIndex.load(work.folder)
        self._work = on_batches(work.make_work(), work.single)

    def __call__(self, chunk: Chunk, attempt: str, done: Callable[[int], None]) -> None:
        """Make a chunk's file.

        Args:
            chunk: the lines.
            attempt: a name that no other attempt at these lines has.
            done: called with the number of lines of each batch that is done.

        Raises:
            BadLine: at a line that ends the job.
            BrokenProcess: if this process is of no use any more.
            Exception: if reading or writing fails, for which no line is to blame.
        """
        lines = self._index.read(chunk.first, chunk.last)
        with (
            ChunkWriter(self._job.folder, self._job.plan, chunk, attempt) as writer,
            _deadline(self._job.timeout, part_path(self._job.folder, chunk, attempt)) as extend,
        ):
            for batch in self._job.batches.of(chunk):
                extend()
                writer.write(self._records(batch, [next(lines) for _ in range(batch.size)]))
                done(batch.size)

    def _records(self, batch: Chunk, lines: Sequence[tuple[int, str | InputError]]) -> list[bytes]:
        """The records of a batch, encoded."""
        readable: Any = [(number, line) for number, line in lines if not isinstance(line, InputError)]
        results = iter(solve(self._work, readable))
        encoded = []
        for position, (number, line) in enumerate(lines, start=batch.first):
            result = line if isinstance(line, InputError) else next(results)
            encoded.append(self._encoded(result, position, number))
        return encoded

    def _encoded(self, result: Any, position: int, number: int) -> bytes:
        """The line of a result in the chunk's file."""
        if not isinstance(result, Exception):
            try:
                return dump_line(result).encode()
            except (TypeError, ValueError) as error:  # a text that has no UTF-8, such as half a surrogate pair
                result = InputError(f"its result cannot be written as JSON in UTF-8: {error}")
        if not self._job.skip_bad:
            if isinstance(result, Unexpected):
                message = f"{result.reason}; skip_bad=true leaves such lines out"
                raise BadLine(position, InputError(message, self._job.source, number)) from result.error
            if isinstance(result, InputError):
                named = result if result.path else InputError(result.reason, self._job.source, number)
                raise BadLine(position, named)
        return dump_line(self._job.skipped(result, number)).encode()


def solve(work: BatchWork, lines: Numbered) -> list[Any]:
    """The results of lines; if the work raises what it should not, halves are tried until the line is found.

    Raises:
        BrokenProcess: if this process is of no use any more.
        OutputError: if the work cannot write, for which no line is to blame.
    """
    if not lines:
        return []
    try:
        results = list(work(lines))
        if len(results) != len(lines):
            raise ValueError(f"{len(results)} results of {len(lines)} lines")
        return results
    except OutputError:
        raise
    except Exception as error:
        if is_full(error):
            raise OutputError(getattr(error, "filename", None) or "a file", error.strerror) from error  # type: ignore[attr-defined]
        if _breaks_the_process(error):
            raise BrokenProcess from error
        if len(lines) == 1:
            return [Unexpected(error)]
        middle = len(lines) // 2
        return solve(work, lines[:middle]) + solve(work, lines[middle:])


def on_batches(made: Any, single: bool) -> BatchWork:
    """What ``make_work`` made, as work on batches; ``single`` if it is work on single lines."""
    return functools.partial(_each, made) if single else made


def _each(work: Work, lines: Numbered) -> list[Result]:
    """Work on single lines, as work on a batch."""
    results: list[Result] = []
    for number, line in lines:
        try:
            results.append(work(number, line))
        except (InputError, SkipItem) as error:
            results.append(error)
    return results


def _breaks_the_process(error: Exception) -> bool:
    """Whether nothing works in this process any more: a GPU after a failed kernel. Too little memory is not that."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


@contextmanager
def _deadline(timeout: float | None, part: Path) -> Iterator[Callable[[], None]]:
    """Give a function to be called before each batch; the process ends if it is not called again in time.

    A thread of C watches, so it works while Python is kept from running. It writes beside the part where the process
    was.
    """
    if timeout is None:
        yield lambda: None
        return
    path, armed = hang_path(part), [float("-inf")]
    with open(path, "w", encoding="utf-8") as file:

        def extend() -> None:
            now = time.monotonic()
            if now - armed[0] > timeout / 10:  # starting the watch takes as long as a short line does
                faulthandler.dump_traceback_later(timeout * 1.1, exit=True, file=file)
                armed[0] = now

        try:
            yield extend
        finally:
            faulthandler.cancel_dump_traceback_later()
            path.unlink(missing_ok=True)


def hang_path(part: Path) -> Path:
    """Where a process that had no result in time says what it was doing."""
    return part.with_suffix(".hang")


def hung_in(part: Path) -> str | None:
    """What the process was doing that had no result in time; None if it ended otherwise. The note is removed."""
    path = hang_path(part)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    path.unlink(missing_ok=True)
    found = re.findall(r"\(most recent call first\):\n\s+File \"([^\"]*)\", line (\d+) in (\S+)", text)
    if not found:
        return None if not text.strip() else "somewhere"
    file, line, function = found[-1]  # the main thread's comes last
    return f"{function}, {Path(file).name}:{line}"

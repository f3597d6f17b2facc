"""Work on every line of a file: in parallel, in order, resumable after a kill, with what was left out listed.

Results go to ``.partial.<output>.jsonl`` as they come, one line per input line, in input order. A job that was killed
starts again behind the last whole line there; when all is done, the results move to ``<output>`` and the reasons
for what is missing to ``<output>.skipped.jsonl``. Two processes never work on one output: the second is refused.
"""

import functools
import hashlib
import json
import multiprocessing
import os
import re
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice, repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from nemo_speechlm.data.manifest import Record, dump_line
from nemo_speechlm.errors import InputError, SkipItem, SpeechLMError
from nemo_speechlm.files import atomic_write, iter_lines, refuse_input_as_output, refuse_overwrite
from nemo_speechlm.locks import only_writer
from nemo_speechlm.shards import Shard

Work = Callable[[int, str], Record]
"""Turns (line number, line) into the output record. Raises SkipItem, or InputError where the input is bad."""

Result = Record | InputError | SkipItem

BatchWork = Callable[[Sequence[tuple[int, str]]], Sequence[Result]]
"""Turns several (line number, line) into as many records; what :data:`Work` would raise stands in a record's place."""

Place = Callable[[Iterator[Record]], Sequence["Path | str | None"]]
"""Says of all finished records where each goes: None is the output, a path another file, a string why to skip it."""


_PARTICULARS = re.compile(r"""(?<!\w)(['"]).*?\1(?!\w)|\d+(\.\d+)?""")
"""What is quoted or counted in a message: it would make each line's reason another one."""


CUT_PHONES = "cut_phones"
"""A line's number of phones that a text-to-unit model wanted to be longer than it may make them."""


@dataclass
class JobReport:
    """What a job did: lines written, and why the others are missing (reasons without the particulars of a line)."""

    written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    cut_phones: int = 0

    def wrote(self, record: Record) -> None:
        """Count one line written, and what it says of itself."""
        self.written += 1
        self.cut_phones += record.get(CUT_PHONES, 0)

    def skip(self, reason: str) -> None:
        """Count one line left out."""
        self.skipped[_PARTICULARS.sub("...", reason)] += 1

    def summary(self, of_written: str = "") -> str:
        """What was done, with the ten commonest reasons; ``of_written`` is said behind the number of lines written."""
        reasons = "".join(f"\n  {count} x {reason}" for reason, count in self.skipped.most_common(10))
        more = len(self.skipped) - 10
        cut = f"\n  {self.cut_phones} phones were as long as the model allows ({CUT_PHONES})"
        return (
            f"{self.written} written{of_written}, {self.skipped.total()} left out"
            + reasons
            + (f"\n  and {more} more reasons" if more > 0 else "")
            + (cut if self.cut_phones else "")
        )

    def __str__(self) -> str:
        return self.summary()


def run_job(
    source: str | Path,
    output: str | Path,
    make_work: Callable[[], Work] | Callable[[], BatchWork],
    *,
    settings: dict[str, Any],
    workers: int = 1,
    batch_size: int | None = None,
    shard: Shard | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    max_lines: int | None = None,
    place: Place | None = None,
    others: Sequence[Path] = (),
    before_rename: Callable[[Path], None] | None = None,
    description: str = "",
    unit: str = "line",
) -> JobReport:
    """Apply ``make_work()`` to every non-blank line of ``source`` and write the records to ``output``.

    The output does not depend on ``workers``: work that draws random numbers seeds them from the line number, and
    batches are the same whoever works on them, after an interruption too.

    Args:
        source: text or JSON-lines file, gzipped or not.
        output: JSON-lines file to make.
        make_work: called once in each worker process; must be picklable, as must what it raises.
        settings: everything that decides the result. A partial result of other settings is not resumed.
        workers: processes; 0 or 1 works in this one.
        batch_size: None if ``make_work`` makes a :data:`Work`; else it makes a :data:`BatchWork`, and this many lines
            are given to it at once.
        shard: do this part of the lines only; ``output`` is the shard's.
        skip_bad: list bad input in ``<output>.skipped.jsonl`` and go on, instead of raising at the first.
        overwrite: replace an existing output.
        max_lines: non-blank lines of the source to read; None reads all.
        place: where each record goes, for what can only be said when all are known (duplicates, held-out lines).
        others: the files besides ``output`` that ``place`` names.
        before_rename: called with the finished output before it takes its name; what it makes is there when that is.
        description: shown before the progress bar.
        unit: what the bar counts.

    Raises:
        InputError: on bad input (unless ``skip_bad``), an empty source, or an output that exists, is the source, or is
            being made by another process. If nothing at all could be used, the output is not written either.
        SpeechLMError: if ``make_work`` does, or if a worker process dies.
    """
    source, output = Path(source), Path(output)
    refuse_input_as_output([output, skipped_path(output), progress_path(output), *others], {"the input": source})
    partial = progress_path(output)

    def refuse_all() -> None:
        for path in (output, *others):
            refuse_overwrite(path, overwrite)

    with ExitStack() as held:
        for path in (output, *others):
            held.enter_context(only_writer(path))
        if not partial.exists():  # else it may have been killed between naming its files
            refuse_all()
        output.parent.mkdir(parents=True, exist_ok=True)
        total = sum(1 for _ in islice(iter_lines(source), max_lines))
        if not total:
            raise InputError("is empty", source)
        first, last = (0, total) if shard is None else shard.part(total, batch_size or 1)
        parts = {} if shard is None else {"shard": str(shard), "batch_size": batch_size}
        header = dump_line({"source": _digest(source), "lines": total, **parts, **_plain(settings)})
        if not (_is_progress_of(partial, header) and _count_lines(partial) == last - first):
            refuse_all()
        done = _resume(partial, header, batch_size or 1, last - first)
        lines = islice(iter_lines(source), first + done, last)
        with (
            open(partial, "a", encoding="utf-8") as file,
            tqdm(total=last - first, initial=done, desc=description, unit=unit, smoothing=0.1) as bar,
            closing(_results(lines, make_work, workers, last - first - done, batch_size)) as results,
        ):
            for number, result in results:
                if isinstance(result, InputError) and not skip_bad:
                    raise result if result.path else InputError(result.reason, source, number)
                if isinstance(result, Exception):
                    result = _skip_record(result, source, number)
                file.write(dump_line(result))
                file.flush()
                bar.update()
        return _finish(partial, output, source, place, before_rename, may_be_empty=shard is not None)


def skipped_path(output: str | Path) -> Path:
    """Where a job lists what it left out."""
    output = Path(output)
    return output.with_name(output.name + ".skipped.jsonl")


def progress_path(output: str | Path) -> Path:
    """Where a job keeps its results until all are there; not the name under which the output itself is written."""
    output = Path(output)
    return output.with_name(f".partial.{output.name}.jsonl")


def _skip_record(error: Exception, source: Path, number: int) -> Record:
    """What stands in the progress for a line that is left out: with the file at fault, if it is not the source."""
    record: Record = {"_skipped": getattr(error, "reason", str(error)), "_line": number}
    path = getattr(error, "path", None)
    return record if path in (None, str(source)) else record | {"_path": path}


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=str))


def _is_progress_of(partial: Path, header: str) -> bool:
    if not partial.exists():
        return False
    with open(partial, "rb") as file:
        return file.readline() == header.encode()


def _count_lines(partial: Path) -> int:
    """Whole lines behind the header."""
    with open(partial, "rb") as file:
        return sum(line.endswith(b"\n") for line in file) - 1


def _resume(partial: Path, header: str, batch_size: int, expected: int) -> int:
    """Cut ``partial`` back to its last whole batch and return how many results it holds; an alien one begins anew."""
    if not _is_progress_of(partial, header):
        partial.write_text(header, encoding="utf-8")
        return 0
    with open(partial, "rb+") as file:
        file.readline()
        whole, count, complete = file.tell(), 0, 0
        end = whole
        for line in file:
            if line.endswith(b"\n"):
                end, count = end + len(line), count + 1
                if count % batch_size == 0 or count == expected:
                    whole, complete = end, count
        file.truncate(whole)
        return complete


def _results(
    lines: Iterator[tuple[int, str]],
    make_work: Callable[[], Work] | Callable[[], BatchWork],
    workers: int,
    remaining: int,
    batch_size: int | None,
) -> Generator[tuple[int, Result], None, None]:
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
            if pending:  # an error or an interrupt: nobody wants what the workers are at
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


def _finish(
    partial: Path,
    output: Path,
    source: Path,
    place: Place | None,
    before_rename: Callable[[Path], None] | None,
    may_be_empty: bool,
) -> JobReport:
    """Turn the progress into the output and the list of what is missing.

    Whenever this is cut short, the progress still holds all, and doing it again gives the same files; the output takes
    its name last.
    """
    places = (
        None if place is None else iter(place(record for _, record in _records(partial) if "_skipped" not in record))
    )
    report = JobReport()
    with ExitStack() as stack:
        files: dict[Path, IO[str]] = {}
        building = stack.enter_context(atomic_write(output, before_rename))
        files[skipped_path(output)] = stack.enter_context(atomic_write(skipped_path(output)))
        for (line, record), number in zip(_records(partial), _line_numbers(source, places is not None), strict=False):
            where: Path | str | None = record.get("_skipped")
            if where is None and places is not None:
                where = next(places)
            if isinstance(where, str):
                report.skip(where)
                line_number = record.get("_line", number)
                item = {"file": record["_path"]} if "_path" in record else {"file": str(source), "line": line_number}
                item["reason"] = where
                files[skipped_path(output)].write(dump_line(item))
                continue
            report.wrote(record)
            path = where or output
            if path not in files:
                files[path] = building if path == output else stack.enter_context(atomic_write(path))
            files[path].write(line)
        if not report.written and not may_be_empty:
            raise InputError(f"nothing in it could be used: {report}", source)
    if not report.skipped:
        skipped_path(output).unlink()
    partial.unlink()
    return report


def _records(partial: Path) -> Iterator[tuple[str, Record]]:
    with open(partial, encoding="utf-8") as file:
        next(file)
        for line in file:
            yield line, json.loads(line)


def _line_numbers(source: Path, needed: bool) -> Iterator[int]:
    """Numbers of the source's non-blank lines; not read again where only skipped records need one, which have it."""
    return (number for number, _ in iter_lines(source)) if needed else repeat(0)


def default_workers() -> int:
    """As many processes as this one may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

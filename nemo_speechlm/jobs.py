"""Work on every line of a file: in parallel, in order, resumable after a kill, with what was left out listed.

Results go to ``.partial.<output>.jsonl`` as they come, one line per input line, in input order. A job that was killed
starts again behind the last whole line there; when all is done, the results move to ``<output>`` and the reasons
for what is missing to ``<output>.skipped.jsonl``.
"""

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
from nemo_speechlm.files import atomic_write, iter_lines, refuse_overwrite

Work = Callable[[int, str], Record]
"""Turns (line number, line) into the output record. Raises SkipItem, or InputError where the input is bad."""

Place = Callable[[Iterator[Record]], Sequence["Path | str | None"]]
"""Says of all finished records where each goes: None is the output, a path another file, a string why to skip it."""


_PARTICULARS = re.compile(r"""(?<!\w)(['"]).*?\1(?!\w)|\d+(\.\d+)?""")
"""What is quoted or counted in a message: it would make each line's reason another one."""


@dataclass
class JobReport:
    """What a job did: lines written, and why the others are missing (reasons without the particulars of a line)."""

    written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str) -> None:
        """Count one line left out."""
        self.skipped[_PARTICULARS.sub("...", reason)] += 1

    def summary(self, of_written: str = "") -> str:
        """What was done, with the ten commonest reasons; ``of_written`` is said behind the number of lines written."""
        reasons = "".join(f"\n  {count} x {reason}" for reason, count in self.skipped.most_common(10))
        more = len(self.skipped) - 10
        return (
            f"{self.written} written{of_written}, {self.skipped.total()} left out"
            + reasons
            + (f"\n  and {more} more reasons" if more > 0 else "")
        )

    def __str__(self) -> str:
        return self.summary()


def run_job(
    source: str | Path,
    output: str | Path,
    make_work: Callable[[], Work],
    *,
    settings: dict[str, Any],
    workers: int = 1,
    skip_bad: bool = False,
    overwrite: bool = False,
    max_lines: int | None = None,
    place: Place | None = None,
    description: str = "",
    unit: str = "line",
) -> JobReport:
    """Apply ``make_work()`` to every non-blank line of ``source`` and write the records to ``output``.

    The output does not depend on ``workers``: work that draws random numbers seeds them from the line number.

    Args:
        source: text or JSON-lines file, gzipped or not.
        output: JSON-lines file to make.
        make_work: called once in each worker process; must be picklable, as must what it raises.
        settings: everything that decides the result. A partial result of other settings is not resumed.
        workers: processes; 0 or 1 works in this one.
        skip_bad: list bad input in ``<output>.skipped.jsonl`` and go on, instead of raising at the first.
        overwrite: replace an existing output.
        max_lines: non-blank lines of the source to read; None reads all.
        place: where each record goes, for what can only be said when all are known (duplicates, held-out lines).
        description: shown before the progress bar.
        unit: what the bar counts.

    Raises:
        InputError: on bad input (unless ``skip_bad``), an empty source, or an output that exists. If nothing at all
            could be used, the output is not written either.
        SpeechLMError: if ``make_work`` does, or if a worker process dies.
    """
    source, output = Path(source), Path(output)
    refuse_overwrite(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    total = sum(1 for _ in islice(iter_lines(source), max_lines))
    if not total:
        raise InputError("is empty", source)
    partial = progress_path(output)
    header = dump_line({"source": _digest(source), "lines": total, **_plain(settings)})
    done = _resume(partial, header)
    lines = islice(iter_lines(source), done, max_lines)
    with (
        open(partial, "a", encoding="utf-8") as file,
        tqdm(total=total, initial=done, desc=description, unit=unit, smoothing=0.1) as bar,
        closing(_results(lines, make_work, workers, total - done)) as results,
    ):
        for number, result in results:
            if isinstance(result, InputError) and not skip_bad:
                raise result if result.path else InputError(result.reason, source, number)
            if isinstance(result, Exception):
                result = _skip_record(result, source, number)
            file.write(dump_line(result))
            file.flush()
            bar.update()
    return _finish(partial, output, source, place)


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


def _resume(partial: Path, header: str) -> int:
    """Cut ``partial`` back to its last whole line and return how many results it holds; an alien one begins anew."""
    if partial.exists():
        with open(partial, "rb+") as file:
            if file.readline() == header.encode():
                whole, count = file.tell(), 0
                for line in file:
                    if line.endswith(b"\n"):
                        whole, count = whole + len(line), count + 1
                file.truncate(whole)
                return count
    partial.write_text(header, encoding="utf-8")
    return 0


def _results(
    lines: Iterator[tuple[int, str]], make_work: Callable[[], Work], workers: int, remaining: int
) -> Generator[tuple[int, Record | Exception], None, None]:
    if not remaining:
        return
    if workers <= 1:
        _start_worker(make_work)
        yield from map(_one, lines)
        return
    workers = min(workers, remaining)
    size = max(1, min(64, remaining // (workers * 8)))
    context = multiprocessing.get_context("spawn")
    pending: deque[Future[list[tuple[int, Record | Exception]]]] = deque()
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


_work: Work
_work_failure: SpeechLMError | None = None


def _start_worker(make_work: Callable[[], Work]) -> None:
    global _work, _work_failure
    _work, _work_failure = make_work(), None


def _start_child(make_work: Callable[[], Work], stop: Connection) -> None:
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


def _many(chunk: list[tuple[int, str]]) -> list[tuple[int, Record | Exception]]:
    if _work_failure is not None:
        raise _work_failure
    return [_one(item) for item in chunk]


def _one(item: tuple[int, str]) -> tuple[int, Record | Exception]:
    number, line = item
    try:
        return number, _work(number, line)
    except (InputError, SkipItem) as error:
        return number, error


def _finish(partial: Path, output: Path, source: Path, place: Place | None) -> JobReport:
    places = (
        None if place is None else iter(place(record for _, record in _records(partial) if "_skipped" not in record))
    )
    report = JobReport()
    with ExitStack() as stack:
        files: dict[Path, IO[str]] = {}
        for path in (output, skipped_path(output)):
            files[path] = stack.enter_context(atomic_write(path))
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
            report.written += 1
            path = where or output
            if path not in files:
                files[path] = stack.enter_context(atomic_write(path))
            files[path].write(line)
        if not report.written:
            raise InputError(f"nothing in it could be used: {report}", source)
    partial.unlink()
    if not report.skipped:
        skipped_path(output).unlink()
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

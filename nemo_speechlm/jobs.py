"""Work on every line of a file: in parallel, in order, resumable after a kill, with what was left out listed.

Results go to ``.partial.<output>`` as they come, one line per input line, in input order. A job that was killed starts
again behind the last whole line there; when all lines are done, the results move to ``<output>`` and the reasons for
what is missing to ``<output>.skipped.jsonl``.
"""

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nemo_speechlm.data.manifest import Record, dump_line
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import atomic_write, iter_lines, partial_path, refuse_overwrite

Work = Callable[[int, str], Record]
"""Turns (line number, line) into the output record. Raises SkipItem, or InputError where the input is bad."""


@dataclass
class JobReport:
    """What a job did: lines written, and why the others are missing."""

    written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reasons = "".join(f"\n  {count} x {reason}" for reason, count in self.skipped.most_common(10))
        more = len(self.skipped) - 10
        return (
            f"{self.written} written, {self.skipped.total()} left out"
            + reasons
            + (f"\n  and {more} more reasons" if more > 0 else "")
        )


def run_job(
    source: str | Path,
    output: str | Path,
    make_work: Callable[[], Work],
    *,
    settings: dict[str, Any],
    workers: int = 1,
    skip_bad: bool = False,
    overwrite: bool = False,
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
        description: shown before the progress bar.
        unit: what the bar counts.

    Raises:
        InputError: on bad input (unless ``skip_bad``), an empty source, or an output that exists. If nothing at all
            could be used, the output is not written either.
    """
    source, output = Path(source), Path(output)
    refuse_overwrite(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    total = sum(1 for _ in iter_lines(source))
    if not total:
        raise InputError("is empty", source)
    partial = partial_path(output.with_name(output.name.removesuffix(".gz")))
    header = dump_line({"source": _digest(source), **_plain(settings)})
    done = _resume(partial, header)
    lines = islice(iter_lines(source), done, None)
    with (
        open(partial, "a", encoding="utf-8") as file,
        tqdm(total=total, initial=done, desc=description, unit=unit, smoothing=0.1) as bar,
    ):
        for number, result in _results(lines, make_work, workers, total - done):
            if isinstance(result, InputError) and not skip_bad:
                raise result if result.path else InputError(result.reason, source, number)
            if isinstance(result, Exception):
                result = {"_skipped": getattr(result, "reason", str(result)), "_line": number}
            file.write(dump_line(result))
            file.flush()
            bar.update()
    return _finish(partial, output, source)


def skipped_path(output: str | Path) -> Path:
    """Where a job lists what it left out."""
    output = Path(output)
    return output.with_name(output.name + ".skipped.jsonl")


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
) -> Iterator[tuple[int, Record | Exception]]:
    if not remaining:
        return
    if workers <= 1:
        _start_worker(make_work)
        yield from map(_one, lines)
        return
    context = multiprocessing.get_context("spawn")
    chunk = max(1, min(64, remaining // (workers * 8)))
    with context.Pool(min(workers, remaining), _start_worker, (make_work,)) as pool:
        yield from pool.imap(_one, lines, chunksize=chunk)


_work: Work


def _start_worker(make_work: Callable[[], Work]) -> None:
    global _work
    _work = make_work()


def _one(item: tuple[int, str]) -> tuple[int, Record | Exception]:
    number, line = item
    try:
        return number, _work(number, line)
    except (InputError, SkipItem) as error:
        return number, error


def _finish(partial: Path, output: Path, source: Path) -> JobReport:
    report = JobReport()
    skipped_file = skipped_path(output)
    with open(partial, encoding="utf-8") as file, atomic_write(output) as good, atomic_write(skipped_file) as skipped:
        next(file)
        for line in file:
            record = json.loads(line)
            if "_skipped" in record:
                report.skipped[record["_skipped"]] += 1
                skipped.write(dump_line({"file": str(source), "line": record["_line"], "reason": record["_skipped"]}))
            else:
                report.written += 1
                good.write(line)
        if not report.written:
            raise InputError(f"nothing in it could be used: {report}", source)
    partial.unlink()
    if not report.skipped:
        skipped_file.unlink()
    return report


def default_workers() -> int:
    """As many processes as this one may use cores."""
    return len(os.sched_getaffinity(0))

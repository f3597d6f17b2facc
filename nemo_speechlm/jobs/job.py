"""Work on every line of a file: in parallel, in order, resumable after a kill, with what was left out listed.

Results go to ``.partial.<output>.jsonl`` as they come, one line per input line, in input order. A job that was killed
starts again behind the last whole line there; when all is done, the results move to ``<output>`` and the reasons
for what is missing to ``<output>.skipped.jsonl``. Two processes never work on one output: the second is refused.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import (
    atomic_write,
    dump_line,
    file_digest,
    iter_lines,
    plain,
    refuse_input_as_output,
    refuse_overwrite,
)
from nemo_speechlm.jobs.progress import (
    _count_lines,
    _is_progress_of,
    _line_numbers,
    _records,
    _resume,
    _skip_record,
    progress_path,
    skipped_path,
)
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.jobs.shards import Shard
from nemo_speechlm.jobs.types import BatchWork, Place, Work
from nemo_speechlm.jobs.workers import results_of
from nemo_speechlm.locks import only_writer


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
        place: where each record goes, if that depends on all of them (duplicates, held-out lines).
        others: the files besides ``output`` that ``place`` names.
        before_rename: called with the finished output before it takes its name; so what it makes exists first.
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
        header = dump_line({"source": file_digest(source), "lines": total, **parts, **plain(settings)})
        if not (_is_progress_of(partial, header) and _count_lines(partial) == last - first):
            refuse_all()
        done = _resume(partial, header, batch_size or 1, last - first)
        lines = islice(iter_lines(source), first + done, last)
        with (
            open(partial, "a", encoding="utf-8") as file,
            tqdm(total=last - first, initial=done, desc=description, unit=unit, smoothing=0.1) as bar,
            closing(results_of(lines, make_work, workers, last - first - done, batch_size)) as results,
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


def _finish(
    partial: Path,
    output: Path,
    source: Path,
    place: Place | None,
    before_rename: Callable[[Path], None] | None,
    may_be_empty: bool,
) -> JobReport:
    """Turn the progress into the output and the list of what is missing.

    If this is interrupted, the progress file still has everything, and doing it again gives the same files. The output
    is renamed last.
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

"""Work on every line of a file: in parallel, in order, resumable after a kill, with what was left out listed.

A job is a plan and files of chunks (:mod:`nemo_speechlm.jobs.chunks`) in a folder beside the output,
``.job.<output>``. Workers make these files, wherever they run. When all are there, they become ``<output>`` and the
reasons for what is missing ``<output>.skipped.jsonl``. A job that was killed goes on with the chunks that are missing.
Two processes never work on one output: the second is refused.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import Record, atomic_write, dump_line, refuse_input_as_output, refuse_overwrite
from nemo_speechlm.jobs.chunks import Chunk, gaps, read_chunk
from nemo_speechlm.jobs.engines.executor import Executor, Resources
from nemo_speechlm.jobs.engines.local import LocalEngine
from nemo_speechlm.jobs.lines import LineIndex, index_lines
from nemo_speechlm.jobs.plan import Plan
from nemo_speechlm.jobs.progress import JobFolder, skipped_path
from nemo_speechlm.jobs.report import CUT_PHONES, JobReport
from nemo_speechlm.jobs.shards import Shard, save_shard_plan
from nemo_speechlm.jobs.types import BatchWork, Place, Work
from nemo_speechlm.jobs.work import ChunkWork
from nemo_speechlm.locks import only_writer


def run_job(
    source: str | Path,
    output: str | Path,
    make_work: Callable[[], Work] | Callable[[], BatchWork],
    *,
    settings: dict[str, Any],
    workers: int | None = 1,
    batch_size: int | None = None,
    shard: Shard | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    max_lines: int | None = None,
    place: Place | None = None,
    others: Sequence[Path] = (),
    before_rename: Callable[[Path], None] | None = None,
    engine: Executor | None = None,
    most_workers: int | None = None,
    given: Mapping[str, Any] | None = None,
    description: str = "",
    unit: str = "line",
) -> JobReport:
    """Apply ``make_work()`` to every non-blank line of ``source`` and write the records to ``output``.

    The output does not depend on ``workers`` or ``engine``: work that draws random numbers seeds them from the line
    number, and batches are the same whoever works on them, after an interruption too.

    Args:
        source: text or JSON-lines file, gzipped or not.
        output: JSON-lines file to make.
        make_work: called once in each worker process; must be picklable, as must what it raises.
        settings: everything that decides the result. A partial result of other settings is not resumed.
        workers: processes; 0 or 1 works in this one, unless the engine says otherwise. None is as many as the engine
            has room for.
        batch_size: None if ``make_work`` makes a :data:`Work`; else it makes a :data:`BatchWork`, and this many lines
            are given to it at once.
        shard: do this part of the lines only; ``output`` is the shard's.
        skip_bad: list bad input in ``<output>.skipped.jsonl`` and go on, instead of raising at the first. Lines at
            which the work fails in another way, or its process dies, are bad input too.
        overwrite: replace an existing output.
        max_lines: non-blank lines of the source to read; None reads all.
        place: where each record goes, if that depends on all of them (duplicates, held-out lines).
        others: the files besides ``output`` that ``place`` names.
        before_rename: called with the finished output before it takes its name; so what it makes exists first.
        engine: where the workers run; None is this machine.
        most_workers: processes that the work is good for on one machine, if ``workers`` is None.
        given: options as the user gave them, to be compared when shards are joined.
        description: shown before the progress bar.
        unit: what the bar counts.

    Raises:
        InputError: on bad input (unless ``skip_bad``), an empty source, or an output that exists, is the source, or is
            being made by another process. If nothing at all could be used, the output is not written either.
        SpeechLMError: if ``make_work`` does, or if workers cannot be started.
    """
    source, output = Path(source), Path(output)
    engine = LocalEngine() if engine is None else engine
    refuse_input_as_output([output, skipped_path(output), *others], {"the input": source})
    folder = JobFolder(output)

    def refuse_all() -> None:
        for path in (output, *others):
            refuse_overwrite(path, overwrite)

    with ExitStack() as held:
        for path in (output, *others):
            held.enter_context(only_writer(path))
        if not folder.exists():  # else it may have been killed between naming its files
            refuse_all()
        index = _index(source, folder, max_lines)
        plan = Plan.of(index.digest, index.total, batch_size or 1, settings)
        part = Chunk(0, index.total) if shard is None else Chunk(*shard.part(index.total, plan.batch_size))
        done = folder.chunks(plan)
        missing = gaps(done, part)
        if missing or not folder.exists():
            refuse_all()
        folder.begin(plan, index, done)
        work = ChunkWork(folder.path.resolve(), plan.digest, source, make_work, batch_size, skip_bad)
        resources = Resources(engine.default_workers(most_workers) if workers is None else workers)
        left = sum(chunk.size for chunk in missing)
        with tqdm(total=part.size, initial=part.size - left, desc=description, unit=unit, smoothing=0.1) as bar:
            engine.run(work, missing, resources, engine.timeout, engine.retries, bar.update)
        results = _Results(folder, plan, part, index)
        report = _finish(results, output, source, place, before_rename, may_be_empty=shard is not None)
        if shard is not None:
            save_shard_plan(output, plan, shard, report, given)
        folder.remove()
        return report


def _index(source: Path, folder: JobFolder, max_lines: int | None) -> LineIndex:
    """Find the lines of the source; the job's folder is there then."""
    new = not folder.path.exists()
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        index = index_lines(source, folder.path / "unpacked", max_lines)
        if not index.total:
            raise InputError("is empty", source)
    except InputError:
        if new:
            folder.remove()
        raise
    return index


class _Results:
    """All records of a job, in the order of its lines."""

    def __init__(self, folder: JobFolder, plan: Plan, part: Chunk, index: LineIndex):
        self._folder, self._plan, self.part, self._index = folder, plan, part, index

    def lines(self) -> Iterator[str]:
        """Each record as the line it was written as."""
        chunks = self._folder.chunks(self._plan)
        if gaps(chunks, self.part):
            raise SpeechLMError(f"{self._folder.path}: some of its files were damaged; run the command again")
        for chunk in chunks:
            for line in read_chunk(self._folder.path, self._plan.digest, chunk):
                yield line.decode()

    def placed(self, place: Place) -> Iterator[Path | str | None]:
        """Where ``place`` says that each record goes which was not skipped."""
        return iter(place(json.loads(line) for line in self.lines() if not _is_skipped(line)))

    def numbers(self) -> Iterator[int]:
        """The lines' numbers in the source."""
        return (number for number, _ in self._index.read(self.part.first, self.part.last))


def _is_skipped(line: str) -> bool:
    return line.startswith('{"_skipped": ')


def _finish(
    results: _Results,
    output: Path,
    source: Path,
    place: Place | None,
    before_rename: Callable[[Path], None] | None,
    may_be_empty: bool,
) -> JobReport:
    """Turn the results into the output and the list of what is missing.

    If this is interrupted, the chunks are still there, and doing it again gives the same files. The output is renamed
    last.
    """
    places = None if place is None else results.placed(place)
    numbers = repeat(0) if place is None else results.numbers()  # skipped records have their own
    report = JobReport()
    with ExitStack() as stack:
        files: dict[Path, IO[str]] = {}
        building = stack.enter_context(atomic_write(output, before_rename))
        files[skipped_path(output)] = stack.enter_context(atomic_write(skipped_path(output)))
        for line, number in zip(results.lines(), numbers, strict=False):
            record: Record = json.loads(line) if _is_skipped(line) or CUT_PHONES in line else {}
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
    return report

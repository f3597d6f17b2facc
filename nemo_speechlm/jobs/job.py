"""Work on every line of a file: in parallel, in order, resumable after a kill, with what was left out listed.

A job is a plan and files of chunks (:mod:`nemo_speechlm.jobs.chunks`) in a folder beside the output,
``.job.<output>``. Workers make these files, wherever they run. When all are there, they become ``<output>`` and the
reasons for what is missing ``<output>.skipped.jsonl``. A job that was killed goes on with the chunks that are missing.
Two processes never work on one output: the second is refused.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import Record, refuse_input_as_output, refuse_overwrite, room_for
from nemo_speechlm.jobs.chunks import BatchedLines, Chunk, ListedBatches, gaps
from nemo_speechlm.jobs.engines.executor import Executor, Resources
from nemo_speechlm.jobs.engines.local import LocalEngine
from nemo_speechlm.jobs.finish import Results, finish
from nemo_speechlm.jobs.lines import LineIndex, index_lines
from nemo_speechlm.jobs.plan import Plan
from nemo_speechlm.jobs.progress import JobFolder, skipped_path
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.jobs.shards import Shard, save_shard_plan
from nemo_speechlm.jobs.slow import naming_slow_lines
from nemo_speechlm.jobs.types import BatchWork, Place, Work
from nemo_speechlm.jobs.versions import versions
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
    batch_ends: Sequence[int] | None = None,
    shard: Shard | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    max_lines: int | None = None,
    place: Place | None = None,
    written: Callable[[Record], Record] | None = None,
    others: Sequence[Path] = (),
    ending: Callable[[Results], JobReport] | None = None,
    begin: Callable[[], Any] | None = None,
    before_rename: Callable[[Path], None] | None = None,
    engine: Executor | None = None,
    most_workers: int | None = None,
    given: Mapping[str, Any] | None = None,
    libraries: Iterable[str] = (),
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
        settings: everything that decides the result. A job that was begun with others is not resumed.
        workers: processes; 0 or 1 works in this one, unless the engine says otherwise. None is as many as the engine
            has room for.
        batch_size: None if ``make_work`` makes a :data:`Work`; else it makes a :data:`BatchWork`, and this many lines
            are given to it at once.
        batch_ends: instead, the line behind the last one of each batch, counted from 0 and without blank ones.
        shard: do this part of the lines only; ``output`` is the shard's.
        skip_bad: list bad input in ``<output>.skipped.jsonl`` and go on, instead of raising at the first. Lines at
            which the work fails in another way, or its process dies, are bad input too.
        overwrite: replace an existing output, and what a job of other settings has done so far.
        max_lines: non-blank lines of the source to read; None reads all.
        place: where each record goes, if that depends on all of them (duplicates, held-out lines).
        written: makes a record of a result what stands in the output; None is the result itself.
        ending: makes the output of all results in another way than to write them line by line.
        others: the files besides ``output`` that ``place`` names.
        begin: called before work begins, once nothing refuses the output or what has been done of it.
        before_rename: called with the finished output before it takes its name; so what it makes exists first.
        engine: where the workers run; None is this machine.
        most_workers: processes that the work is good for on one machine, if ``workers`` is None.
        given: options as the user gave them, to be compared when shards are joined.
        libraries: whose versions decide the result, too; this package's always does.
        description: shown before the progress bar.
        unit: what the bar counts.

    Raises:
        InputError: on bad input (unless ``skip_bad``), an empty source, or an output that exists, is the source, is
            being made by another process, or was begun with other settings. If nothing at all could be used, the
            output is not written either.
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
        held.enter_context(room_for(output))
        for path in (output, *others):
            held.enter_context(only_writer(path))
        if not folder.exists():  # else it may have been killed between naming its files
            refuse_all()
        index = _index(source, folder, max_lines)
        batches = BatchedLines(batch_size or 1) if batch_ends is None else ListedBatches(batch_ends)
        made = {**settings, "version": versions(libraries)}
        if isinstance(batches, ListedBatches):
            made["batches"] = batches.digest
        plan = Plan.of(index.digest, index.total, batch_size or 1, made)
        if not overwrite:
            folder.refuse_other(plan)
        part = Chunk(0, index.total) if shard is None else Chunk(*shard.part(index.total, plan.batch_size))
        done = folder.chunks(plan, batches)
        missing = gaps(done, part)
        if missing or not folder.exists():
            refuse_all()
        results = Results(folder, plan, batches, part, index)
        if folder.skips_bad and not skip_bad:
            results.refuse_bad(done, source)
        folder.begin(plan, index, done, skip_bad)
        single = batch_size is None and batch_ends is None
        work = ChunkWork(folder.path.resolve(), plan.digest, source, make_work, batches, single, skip_bad)
        resources = Resources(engine.default_workers(most_workers) if workers is None else workers)
        left = sum(chunk.size for chunk in missing)
        with tqdm(total=part.size, initial=part.size - left, desc=description, unit=unit, smoothing=0.1) as bar:
            try:
                if begin is not None:
                    begin()
                with naming_slow_lines(work, unit, engine.timeout):
                    engine.run(work, missing, resources, engine.timeout, engine.retries, bar.update)
            except SpeechLMError:
                folder.remove_if_bare()
                raise
        if ending is not None:
            report = ending(results)
        else:
            report = finish(results, output, source, place, written, before_rename, may_be_empty=shard is not None)
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

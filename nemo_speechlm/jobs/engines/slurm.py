"""An array of SLURM jobs, each of which works on a range of lines in processes of its own.

Needs the extra ``slurm``.
"""

import functools
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_speechlm.checks import check_number, check_whole
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.jobs.chunks import BatchedLines, Chunk, count_done, gaps, scan
from nemo_speechlm.jobs.engines.executor import Executor, Resources
from nemo_speechlm.jobs.engines.local import LocalEngine, Processes
from nemo_speechlm.jobs.engines.pool import Pool, picklable
from nemo_speechlm.jobs.progress import SUBMITTED
from nemo_speechlm.jobs.work import ChunkWork

_SECONDS = 2.0
"""Between two looks at the jobs."""

_LATE = 60.0
"""Seconds for which a node may not see the files yet that others have written: NFS remembers what is in a folder."""


@dataclass(frozen=True)
class SlurmEngine(Executor):
    """An array of SLURM jobs; each has ``workers`` processes. What a job that ended early left is submitted again.

    Attributes:
        jobs: in the array.
        minutes: of each job.
        gpus: of each job; its processes share them.
        memory_gb: of each job; None is the cluster's default.
        partition: None is the cluster's default.
        options: others of sbatch, such as ``{account: speech, constraint: h100}``.
        cluster: ``slurm``; ``local`` runs the jobs on this machine, to try it.
    """

    jobs: int = 4
    minutes: int = 240
    gpus: int = 0
    memory_gb: float | None = None
    partition: str | None = None
    options: Mapping[str, Any] | None = None
    cluster: str = "slurm"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("jobs", 1), ("minutes", 1), ("gpus", 0)):
            check_whole(f"engine.{name}", getattr(self, name), least)
        if self.memory_gb is not None:
            check_number("engine.memory_gb", self.memory_gb, above=0)
        if not isinstance(self.partition, str | None):
            raise SpeechLMError(f"engine.partition is {self.partition!r}, expected a text, or null")
        if not isinstance(self.options, Mapping | None):
            raise SpeechLMError(f"engine.options is {self.options!r}, expected a mapping, such as {{account: speech}}")
        if self.cluster not in ("slurm", "local"):
            raise SpeechLMError(f"engine.cluster is {self.cluster!r}, expected slurm or local")

    def default_workers(self, most: int | None = None) -> int:
        """One process in each job."""
        return 1

    def run(
        self,
        work: ChunkWork,
        chunks: Iterable[Chunk],
        resources: Resources,
        timeout: float | None = None,
        retries: int = 2,
        advance: Callable[[int], None] = lambda lines: None,
    ) -> None:
        """Make the files of all chunks, see :meth:`Executor.run`.

        Arrays are submitted until nothing is missing, or ``retries`` more did nothing.
        """
        left, fruitless = sorted(chunks), 0
        executor = self._executor(work.folder / "slurm", resources)
        _cancel(work.folder)
        while left:
            ranges = divide(left, self.jobs, work.batches)
            task = functools.partial(_work_on, work, resources=resources, timeout=timeout, retries=retries)
            jobs = executor.map_array(task, ranges)
            (work.folder / SUBMITTED).write_text(json.dumps([job.job_id for job in jobs]))
            failures = _wait(jobs, _Advance(work.folder, left, advance))
            (work.folder / SUBMITTED).unlink()
            missing = _missing(work, left)
            late = time.monotonic() + (_LATE if not failures else 0.0)
            while missing and time.monotonic() < late:
                time.sleep(_SECONDS)
                missing = _missing(work, left)
            fruitless = fruitless + 1 if _lines(missing) == _lines(left) else 0
            if missing and fruitless > retries:
                raise SpeechLMError(
                    f"{fruitless} arrays of SLURM jobs ended without a result; their logs are in {executor.folder}; "
                    + "; ".join(failures[-1:])
                )
            left = missing

    def _executor(self, folder: Path, resources: Resources) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise SpeechLMError("engine=slurm needs submitit: pip install 'nemo_speechlm[slurm]'") from error
        try:
            executor = submitit.AutoExecutor(folder, cluster=self.cluster)
        except RuntimeError as error:
            raise SpeechLMError(f"engine=slurm: {error}") from error
        parameters = {
            "name": "nemo_speechlm",
            "timeout_min": self.minutes,
            "cpus_per_task": max(1, resources.workers),
            "gpus_per_node": self.gpus or None,
            "mem_gb": self.memory_gb,
            "slurm_partition": self.partition,
            "slurm_srun_args": [f"--cpus-per-task={max(1, resources.workers)}"],  # srun does not take it from sbatch
            "slurm_additional_parameters": self.options and dict(self.options),
        }
        executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
        return executor


def divide(chunks: Iterable[Chunk], count: int, batches: BatchedLines) -> list[list[Chunk]]:
    """Divide lines into at most ``count`` parts of about the same size, at the ends of batches.

    >>> divide([Chunk(0, 8), Chunk(10, 12)], 2, BatchedLines(2))
    [[Chunk(first=0, last=6)], [Chunk(first=6, last=8), Chunk(first=10, last=12)]]
    """
    chunks = list(chunks)
    share = -(-_lines(chunks) // count)
    parts: list[list[Chunk]] = [[]]
    for chunk in chunks:
        position = chunk.first
        while position < chunk.last:
            if _lines(parts[-1]) >= share:
                parts.append([])
            wanted = share - _lines(parts[-1])
            end = batches.end(position + wanted - 1, chunk.last)
            parts[-1].append(Chunk(position, end))
            position = end
    return parts


def _lines(chunks: Iterable[Chunk]) -> int:
    return sum(chunk.size for chunk in chunks)


def _missing(work: ChunkWork, ranges: Iterable[Chunk]) -> list[Chunk]:
    """The lines of ranges that are not in finished chunks."""
    return [gap for each in ranges for gap in gaps(scan(work.folder, work.plan, work.batches, each), each)]


class _OnNode(LocalEngine):
    """Processes, even if there is only one: a line that kills it would take the whole SLURM job along."""

    def pool(self, work: ChunkWork, resources: Resources) -> Pool:
        """The processes."""
        return Processes(work, resources.workers)


def _work_on(
    work: ChunkWork, ranges: list[Chunk], *, resources: Resources, timeout: float | None, retries: int
) -> Exception | None:
    """What a job does. SLURM may start it again after a preemption; then it goes on.

    Returns:
        what ends the whole job of jobs.
    """
    try:
        _OnNode().run(work, _missing(work, ranges), resources, timeout, retries)
    except Exception as error:
        return picklable(error)
    return None


def _wait(jobs: list[Any], advance: Callable[[], None]) -> list[str]:
    """Wait until all jobs have ended, or one with a bad line and all that have earlier lines.

    Returns:
        why jobs ended without a result: a node failed, the time was up, ...

    Raises:
        Exception: of the first line that ends everything.
    """
    failures = []
    try:
        for job in jobs:  # in the order of the lines
            while not job.done():
                advance()
                time.sleep(_SECONDS)
            try:
                error = job.result()
            except Exception as failure:
                failures.append(f"job {job.job_id}: {(str(failure).strip() or repr(failure)).splitlines()[-1]}")
                continue
            if error is not None:
                raise error
    finally:
        for job in jobs:
            if not job.done():
                job.cancel(check=False)
    advance()
    return failures


class _Advance:
    """Tells of lines that are done, by the files that are there."""

    def __init__(self, folder: Path, left: list[Chunk], advance: Callable[[int], None]):
        self._folder, self._advance = folder, advance
        self._all = Chunk(left[0].first, left[-1].last)
        self._said = count_done(folder, self._all)

    def __call__(self) -> None:
        done = count_done(self._folder, self._all)
        if done != self._said:
            self._advance(done - self._said)
            self._said = done


def _cancel(folder: Path) -> None:
    """Cancel the jobs of a command that was killed; if they go on all the same, they do no harm."""
    try:
        listed = json.loads((folder / SUBMITTED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    with suppress(OSError):
        subprocess.run(["scancel", *listed], check=False)

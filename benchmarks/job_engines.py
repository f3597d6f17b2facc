r"""What engines of jobs cost: their time beside a plain pool's, and the start and memory of the command itself.

    python benchmarks/job_engines.py --lines 20000 --microseconds 200 --engines pool local ray slurm --deaths 3
    python benchmarks/job_engines.py --start 20000000

The first command: the work on a line is to compute for so many microseconds. The pool is Python's own: results come
back to the command, which writes them; a killed worker ends it. Each engine's time is that of the whole job, workers'
start included; take enough lines that it hardly counts. slurm means submitit's jobs on this machine. All engines must
write the pool's bytes, though with --deaths so many lines of theirs kill the first worker that comes to them.

The second command runs a job over so many lines, whose work is next to nothing, in worker processes. It says how long
it takes until the first chunk could be handed out, and the memory of the process that leads the job: before, until
then, and at most, the output's making included.
"""

import argparse
import functools
import hashlib
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from common import peak_memory, report

from nemo_speechlm.files import Record, dump_line, iter_lines
from nemo_speechlm.jobs import BatchWork, Executor, LocalEngine, RayEngine, SlurmEngine, run_job

CHUNK = 64


def compute(number: int, line: str, microseconds: float, deadly: dict[int, Path] | None = None) -> Record:
    """Work on a line: some computing, and a record about as long as the line.

    ``deadly`` lines kill the first process that works on them, which leaves a file.
    """
    if deadly and number in deadly and not deadly[number].exists():
        deadly[number].touch()
        os.kill(os.getpid(), signal.SIGKILL)
    end = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < end:
        pass
    return {"text": line.strip().upper(), "number": number}


def make_work(microseconds: float, deadly: dict[int, Path] | None = None) -> Callable[[int, str], Record]:
    return functools.partial(compute, microseconds=microseconds, deadly=deadly)


def many(chunk: list[tuple[int, str]], microseconds: float) -> list[Record]:
    return [compute(number, line, microseconds) for number, line in chunk]


def pool(source: Path, output: Path, workers: int, microseconds: float, deaths: int = 0) -> None:
    """The plain way: chunks go to Python's pool, results come back in order and are written."""
    pending: deque[Future[list[Record]]] = deque()
    lines = iter_lines(source)
    hashlib.file_digest(open(source, "rb"), "sha256")  # noqa: SIM115  # jobs do it, too
    with (
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as processes,
        open(output, "w", encoding="utf-8") as file,
    ):
        while True:
            while len(pending) < 4 * workers and (chunk := list(islice(lines, CHUNK))):
                pending.append(processes.submit(many, chunk, microseconds))
            if not pending:
                return
            for record in pending.popleft().result():
                file.write(dump_line(record))
                file.flush()


def job(source: Path, output: Path, workers: int, microseconds: float, deaths: int = 0, *, engine: Executor) -> None:
    deadly = {number: output.with_name(f"{output.name}.{number}.died") for number in range(7, 7 + 1000 * deaths, 1000)}
    for path in deadly.values():
        path.unlink(missing_ok=True)
    make = functools.partial(make_work, microseconds, deadly)
    run_job(source, output, make, settings={}, workers=workers, engine=engine, overwrite=True)


ENGINES: dict[str, Callable[..., None]] = {
    "pool": pool,
    "local": functools.partial(job, engine=LocalEngine()),
    "ray": functools.partial(job, engine=RayEngine(address=None)),
    "slurm": lambda source, output, workers, microseconds, deaths: job(
        source, output, 1, microseconds, deaths, engine=SlurmEngine(cluster="local", jobs=workers)
    ),
}


def write_lines(path: Path, count: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f'{{"text": "the words of sentence {number}"}}\n' for number in range(count))


def compare(source: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Time engines in turns; all must write the same bytes."""
    seconds: dict[str, list[float]] = {name: [] for name in arguments.engines}
    digests = set()
    for _ in range(arguments.rounds):
        for name in arguments.engines:
            output = source.with_name(f"{name}.json")
            begin = time.perf_counter()
            ENGINES[name](source, output, arguments.workers, arguments.microseconds, arguments.deaths)
            seconds[name].append(time.perf_counter() - begin)
            digests.add(hashlib.sha256(output.read_bytes()).hexdigest())
    assert len(digests) == 1, "engines differ"
    peer = statistics.median(seconds.get("pool", next(iter(seconds.values()))))
    return [
        {
            "engine": name,
            "lines": arguments.lines,
            "microseconds_a_line": arguments.microseconds,
            "workers": arguments.workers,
            "deaths": 0 if name == "pool" else arguments.deaths,
            "seconds": statistics.median(times),
            "beside_the_pool": statistics.median(times) / peer,
            "rounds": arguments.rounds,
        }
        for name, times in seconds.items()
    ]


@dataclass(frozen=True)
class StartedEngine(LocalEngine):
    """Processes of this machine; notes when the job was ready for them, and the memory then."""

    noted: list[tuple[float, float]] = field(default_factory=list)

    def run(self, *arguments: Any, **options: Any) -> None:
        """See :class:`LocalEngine`."""
        self.noted.append((time.perf_counter(), peak_memory()))
        super().run(*arguments, **options)


def echo(lines: Sequence[tuple[int, str]]) -> list[Record]:
    return [{"text": line, "number": number} for number, line in lines]


def make_echo() -> BatchWork:
    return echo


def start(source: Path, workers: int) -> list[dict[str, Any]]:
    """Time until a job's workers could begin, and memory of the process that leads it."""
    engine, before, begin = StartedEngine(), peak_memory(), time.perf_counter()
    report = run_job(
        source, source.with_name("out"), make_echo, settings={}, batch_size=512, workers=workers, engine=engine
    )
    ((ready, then),) = engine.noted
    return [
        {
            "lines": report.written,
            "gigabytes": source.stat().st_size / 1e9,
            "workers": workers,
            "start_seconds": ready - begin,
            "seconds": time.perf_counter() - begin,
            "MiB_before": before * 1024,
            "MiB_at_the_start": then * 1024,
            "MiB_at_most": peak_memory() * 1024,
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=20000)
    parser.add_argument("--microseconds", type=float, default=200, help="of work on a line")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=["pool", "local"])
    parser.add_argument("--deaths", type=int, default=0, help="lines that kill their worker, once")
    parser.add_argument("--start", type=int, help="measure the start with so many lines instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.json"
        write_lines(source, arguments.start or arguments.lines)
        if arguments.start:
            report("job_start", start(source, arguments.workers), packages=("numpy",))
        else:
            report("job_engines", compare(source, arguments), packages=("ray", "submitit"))


if __name__ == "__main__":
    main()

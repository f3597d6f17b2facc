r"""What engines of jobs cost: their time beside a plain pool's, and the start and memory of the command itself.

    python benchmarks/job_engines.py --lines 20000 --microseconds 200 --engines pool local ray slurm
    python benchmarks/job_engines.py --start 20000000

The work on a line is to compute for so many microseconds. The pool is Python's own: results come back to the command,
which writes them; a killed worker ends it. Each engine's time is that of the whole job, workers' start included; take
enough lines that it hardly counts. slurm means submitit's jobs on this machine.

--start measures how long a job over so many lines takes until its first chunk could be handed out, and the memory of
the process that does it, beside that of the same process before.
"""

import argparse
import functools
import hashlib
import multiprocessing
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from common import peak_memory, report

from nemo_speechlm.files import Record, dump_line, iter_lines
from nemo_speechlm.jobs import Executor, LocalEngine, RayEngine, SlurmEngine, run_job
from nemo_speechlm.jobs.lines import index_lines

CHUNK = 64


def compute(number: int, line: str, microseconds: float) -> Record:
    """Work on a line: some computing, and a record about as long as the line."""
    end = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < end:
        pass
    return {"text": line.strip().upper(), "number": number}


def make_work(microseconds: float) -> Callable[[int, str], Record]:
    return functools.partial(compute, microseconds=microseconds)


def many(chunk: list[tuple[int, str]], microseconds: float) -> list[Record]:
    return [compute(number, line, microseconds) for number, line in chunk]


def pool(source: Path, output: Path, workers: int, microseconds: float) -> None:
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


def job(source: Path, output: Path, workers: int, microseconds: float, engine: Executor) -> None:
    make = functools.partial(make_work, microseconds)
    run_job(source, output, make, settings={}, workers=workers, engine=engine, overwrite=True)


ENGINES: dict[str, Callable[..., None]] = {
    "pool": pool,
    "local": functools.partial(job, engine=LocalEngine()),
    "ray": functools.partial(job, engine=RayEngine(address=None)),
    "slurm": lambda source, output, workers, microseconds: job(
        source, output, 1, microseconds, SlurmEngine(cluster="local", jobs=workers)
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
            ENGINES[name](source, output, arguments.workers, arguments.microseconds)
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
            "seconds": statistics.median(times),
            "beside_the_pool": statistics.median(times) / peer,
            "rounds": arguments.rounds,
        }
        for name, times in seconds.items()
    ]


def start(source: Path) -> list[dict[str, Any]]:
    """Time and memory of finding the lines of a source."""
    before, begin = peak_memory(), time.perf_counter()
    index = index_lines(source, source.with_name("unpacked"))
    index.save(source.parent)
    seconds = time.perf_counter() - begin
    return [
        {
            "lines": index.total,
            "gigabytes": source.stat().st_size / 1e9,
            "seconds": seconds,
            "MiB_before": before * 1024,
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
    parser.add_argument("--start", type=int, help="measure the start with so many lines instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.json"
        write_lines(source, arguments.start or arguments.lines)
        if arguments.start:
            report("job_start", start(source), packages=("numpy",))
        else:
            report("job_engines", compare(source, arguments), packages=("ray", "submitit"))


if __name__ == "__main__":
    main()

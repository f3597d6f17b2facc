"""Ray and SLURM: the bytes of one process, though workers, a node and jobs were killed."""

import os
import re
import threading
import time
from pathlib import Path

import pytest

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.jobs import LocalEngine, RayEngine, SlurmEngine
from nemo_speechlm.jobs.chunks import BatchedLines, Chunk
from nemo_speechlm.jobs.engines import slurm
from nemo_speechlm.jobs.engines.slurm import divide
from nemo_speechlm.jobs.progress import SUBMITTED, skipped_path
from nemo_speechlm.testing.processes import run_in_processes
from tests.jobs.test_engines import job, records, source_with
from tests.long_forms import LONG

ROOT = Path(__file__).parents[2]


@pytest.fixture
def undisturbed(tmp_path: Path):
    """A source with a line that fails, two that wait for a file "go", and one whose first worker dies; its results."""
    source = source_with(tmp_path, {3: "wait", 7: "wait", 22: "once", 41: "raise"}, total=60)
    for name in ("go", "died"):
        (tmp_path / name).touch()
    job(source, "plain", skip_bad=True)
    for path in tmp_path.glob("[gdw][oia]*"):
        path.unlink()
    return source


def assert_same(folder: Path, name: str) -> None:
    assert (folder / "died").exists()
    assert (folder / name).read_bytes() == (folder / "plain").read_bytes()
    assert [line["line"] for line in records(skipped_path(folder / name))] == [41]


def when_both_wait(folder: Path, act) -> threading.Thread:
    """Do something while workers wait in lines 3 and 7, then let them go on."""

    def watch():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not all((folder / f"waiting{n}").exists() for n in (3, 7)):
            time.sleep(0.02)
        act()
        (folder / "go").touch()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_node_of_a_ray_cluster_goes(undisturbed: Path, tmp_path: Path):
    """Two nodes on this machine; one is killed while its worker is at a line."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'nemo_speechlm[ray]'")
    # In a process of its own: with Python 3.13, processes that are forked from one that has used Ray crash.
    assert run_in_processes(_a_node_goes, 1, undisturbed, tmp_path) == [0]


def _a_node_goes(rank: int, undisturbed: Path, folder: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)
    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        second = cluster.add_node(**small)
        engine = RayEngine(address=cluster.address)
        assert engine.default_workers() == 2
        killer = when_both_wait(folder, lambda: cluster.remove_node(second, allow_graceful=False))
        job(undisturbed, "ray", workers=None, engine=engine, skip_bad=True)
        killer.join()
        assert_same(folder, "ray")
        with pytest.raises(SpeechLMError, match=r"no node of the Ray cluster has engine\.num_cpus=64"):
            job(undisturbed, "wide", engine=RayEngine(address=cluster.address, num_cpus=64))
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.skipif(not LONG, reason="waits 20 s for submitit to look: with LONG_TESTS=1")
def test_a_slurm_job_is_killed(undisturbed: Path, tmp_path: Path, monkeypatch):
    """Run by submitit on this machine; what the job left is submitted again."""
    submitit = pytest.importorskip("submitit", reason="submitit is not installed: pip install 'nemo_speechlm[slurm]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(slurm, "_SECONDS", 0.05)
    arrays = []

    def submitted(self, function, ranges):
        arrays.append(map_array(self, function, ranges))
        return arrays[-1]

    map_array = submitit.AutoExecutor.map_array
    monkeypatch.setattr(submitit.AutoExecutor, "map_array", submitted)
    engine = SlurmEngine(cluster="local", jobs=2)
    source_with(tmp_path, {22: "job", 41: "raise"}, total=60)
    job(undisturbed, "slurm", workers=None, engine=engine, skip_bad=True)
    assert [len(jobs) for jobs in arrays] == [2, 2], "line 22 ends the first job"
    assert_same(tmp_path, "slurm")
    (tmp_path / "died").unlink()
    source_with(tmp_path, {22: "once", 41: "raise"}, total=60)
    job(undisturbed, "worker", workers=None, engine=engine, skip_bad=True)
    assert [len(jobs) for jobs in arrays[2:]] == [2], "line 22 ends a worker, not its job"
    assert_same(tmp_path, "worker")
    with pytest.raises(InputError, match="source:41: KeyError: 'raise'"):
        job(undisturbed, "stopped", workers=1, engine=engine)


SBATCH = """#!/bin/sh
for file; do :; done
cp "$file" "$STAND_IN/script"
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$file")
for task in $(seq 0 "$last"); do
    (
        sleep 0.3
        SLURM_ARRAY_JOB_ID=$$ SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=$$$task exec sh "$file"
    ) >"$STAND_IN/log$task" 2>&1 &
done
echo "Submitted batch job $$"
"""
SRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
    case $1 in --output | --error) shift 2 ;; *) echo "$1" >>"$STAND_IN/srun"; shift ;; esac
done
exec "$@"
"""


def test_sbatch_is_told_what_the_options_say(undisturbed: Path, tmp_path: Path, monkeypatch):
    """With stand-ins for SLURM's programs, which run the array on this machine."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'nemo_speechlm[slurm]'")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": "#!/bin/sh\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(slurm, "_SECONDS", 0.05)
    for name in ("go", "died"):
        (tmp_path / name).touch()
    options = {"account": "speech", "constraint": "h100"}
    engine = SlurmEngine(jobs=2, minutes=90, gpus=1, memory_gb=8, partition="long", options=options)
    job(undisturbed, "slurm", workers=1, engine=engine, skip_bad=True)
    assert_same(tmp_path, "slurm")
    told = set(re.findall(r"^#SBATCH --(\S+)", (tmp_path / "script").read_text(), flags=re.MULTILINE))
    assert told >= {
        "array=0-1%2", "time=90", "gpus-per-node=1", "mem=8GB", "partition=long", "account=speech", "constraint=h100",
        "cpus-per-task=1", "job-name=nemo_speechlm",
    }  # fmt: skip
    assert "--cpus-per-task=1" in (tmp_path / "srun").read_text()


class Ended:
    """A job of an array that has ended."""

    job_id = "17_0"

    def __init__(self, result):
        self.result = lambda: result
        self.done = lambda: True


class Array:
    """A stand-in for submitit's executor, whose jobs have run in this process when they are submitted."""

    def __init__(self, folder: Path):
        self.folder, self.arrays = folder, []

    def map_array(self, task, ranges):
        self.arrays.append(ranges)
        return [Ended(task(part)) for part in ranges]


def test_a_line_that_always_kills_is_found_by_the_one_process_of_a_slurm_job(tmp_path: Path, monkeypatch):
    """Without ``workers``. A job that worked in its own process would die with it, and this test, too."""
    array = Array(tmp_path / "slurm")
    monkeypatch.setattr(SlurmEngine, "_executor", lambda self, folder, resources: array)
    monkeypatch.setattr(slurm, "_SECONDS", 0.01)
    source = source_with(tmp_path, {6: "die"}, total=12)
    report = job(source, "out", workers=None, engine=SlurmEngine(jobs=2, retries=1), skip_bad=True)
    (bad,) = records(skipped_path(tmp_path / "out"))
    assert (bad["line"], bad["reason"]) == (6, "a worker process died on it (SIGSEGV), 2 times")
    assert (report.written, len(array.arrays)) == (11, 1), "nothing is submitted again"
    with pytest.raises(InputError, match=r"source:6: a worker process died on it \(SIGSEGV\), 2 times"):
        job(source, "stopped", workers=None, engine=SlurmEngine(jobs=2, retries=1))


@pytest.mark.parametrize("looks", [3, 10_000])
def test_files_that_are_seen_late_are_not_made_again(tmp_path: Path, monkeypatch, looks: int):
    """The folder shows nothing of the first array for so many looks; when the time is over, another one is sent."""
    hidden, missing = [0], slurm._missing

    class Hiding(Array):
        def map_array(self, task, ranges):
            found = super().map_array(task, ranges)
            hidden[0] = looks if len(self.arrays) == 1 else 0
            return found

    def seen(work, ranges):
        hidden[0] -= 1
        return list(ranges) if hidden[0] >= 0 else missing(work, ranges)

    array = Hiding(tmp_path / "slurm")
    monkeypatch.setattr(SlurmEngine, "_executor", lambda self, folder, resources: array)
    monkeypatch.setattr(slurm, "_missing", seen)
    monkeypatch.setattr(slurm, "_cancel", lambda folder: None)
    monkeypatch.setattr(slurm, "_SECONDS", 0.01)
    monkeypatch.setattr(slurm, "_LATE", 0.5)
    job(source_with(tmp_path, {}, total=4), "out", workers=1, engine=SlurmEngine(jobs=1))
    assert len(array.arrays) == (1 if looks == 3 else 2)


def test_jobs_of_a_command_that_was_killed_before_a_result_are_cancelled(tmp_path: Path, monkeypatch):
    cancelled = []
    monkeypatch.setattr(slurm.subprocess, "run", lambda command, check: cancelled.append(command))

    class Killed(LocalEngine):
        def run(self, work, *arguments):
            (work.folder / SUBMITTED).write_text('["17_0", "17_1"]')
            raise KeyboardInterrupt

    class Again(LocalEngine):
        def run(self, work, *arguments):
            slurm._cancel(work.folder)
            super().run(work, *arguments)

    source = source_with(tmp_path, {}, total=4)
    with pytest.raises(KeyboardInterrupt):
        job(source, "out", engine=Killed())
    job(source, "out", engine=Again())
    assert cancelled == [["scancel", "17_0", "17_1"]]


def test_ranges_of_an_array_cover_all_lines_at_the_ends_of_batches():
    chunks = [Chunk(0, 40), Chunk(44, 47), Chunk(60, 81)]
    for count in range(1, 12):
        parts = divide(chunks, count, BatchedLines(4))
        assert len(parts) <= count
        flat = [chunk for part in parts for chunk in part]
        assert [n for chunk in flat for n in range(*chunk)] == [n for chunk in chunks for n in range(*chunk)]
        assert all(chunk.last % 4 == 0 or chunk.last in (47, 81) for chunk in flat)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "engine.jobs is 0"),
        ({"memory_gb": "x"}, "engine.memory_gb is 'x', expected a number above 0"),
        ({"partition": 5}, "engine.partition is 5, expected a text"),
        ({"options": 5}, "engine.options is 5, expected a mapping"),
        ({"cluster": "moon"}, "engine.cluster is 'moon', expected slurm or local"),
    ],
)
def test_options_of_slurm_are_checked(options, message):
    with pytest.raises(SpeechLMError, match=message):
        SlurmEngine(**options)

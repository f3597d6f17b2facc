"""Lines without a result for long are named while they are waited for, whatever engine works on them."""

import logging
import threading
import time
from pathlib import Path

import pytest

from nemo_speechlm.jobs import LocalEngine, SlurmEngine, slow
from nemo_speechlm.jobs.chunks import BatchedLines, Chunk, ChunkWriter, part_path
from nemo_speechlm.jobs.engines import slurm
from nemo_speechlm.jobs.lines import index_lines
from nemo_speechlm.jobs.slow import _Watch
from nemo_speechlm.jobs.work import ChunkWork
from tests.jobs.test_clusters import Array
from tests.jobs.test_engines import job, source_with


def when_told(folder: Path, caplog, go: str) -> threading.Thread:
    """Let the work go on as soon as the user has been told something."""

    def watch():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not caplog.records:
            time.sleep(0.02)
        (folder / go).touch()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("where", ["this process", "processes", "slurm"])
def test_lines_that_are_waited_for_are_named(tmp_path: Path, monkeypatch, caplog, where: str):
    monkeypatch.setattr(slow, "PATIENCE", 0.4)
    monkeypatch.setattr(slurm, "_SECONDS", 0.01)
    monkeypatch.setattr(SlurmEngine, "_executor", lambda self, folder, resources: Array(tmp_path / "slurm"))
    engine = SlurmEngine(jobs=1) if where == "slurm" else LocalEngine()
    source = source_with(tmp_path, {6: "wait"}, total=11)
    with caplog.at_level(logging.WARNING, logger=slow.__name__):
        thread = when_told(tmp_path, caplog, "go")
        report = job(source, "out", workers=2 if where == "processes" else 1, engine=engine)
        thread.join()
    message = caplog.records[0].getMessage()
    assert message.startswith(f"{source}: lines 5 to 8 (word 5, ...): no result for 0 minutes.")
    assert "engine.timeout=SECONDS" in message
    assert report.written == 11, "they are not blamed"


def unfinished_part(folder: Path) -> ChunkWork:
    """The work of a job whose only worker has made lines 1 and 2 of 5, in batches of two."""
    source = folder / "source"
    source.write_text("a\n\nb\nc\nd\ne\n")
    index_lines(source, folder / "unpacked").save(folder)
    writer = ChunkWriter(folder, "plan", Chunk(0, 5), "attempt")
    writer.write([b"{}\n", b"{}\n"])
    return ChunkWork(folder, "plan", source, lambda: None, BatchedLines(2), False, False)


def test_they_are_named_again_when_twice_the_time_has_passed(tmp_path: Path):
    work = unfinished_part(tmp_path)
    watch = _Watch(work, "line", None)
    told = [second for second in range(0, 6001, 100) if watch.look(float(second))]
    assert told == [600, 1200, 2400, 4800]


def test_what_grows_is_not_named(tmp_path: Path):
    work = unfinished_part(tmp_path)
    watch, path = _Watch(work, "line", 7200.0), part_path(tmp_path, Chunk(0, 5), "attempt")
    assert not watch.look(0.0)
    with open(path, "ab") as part:
        part.write(b"{}\n{}\n")
    assert not watch.look(599.0)
    assert not watch.look(1198.0)
    (message,) = watch.look(1199.0)
    assert message == (
        f"{tmp_path}/source: line 6 (e): no result for 10 minutes. "
        "Its worker is ended after engine.timeout=7200 seconds"
    )
    path.unlink()
    assert not watch.look(9000.0)

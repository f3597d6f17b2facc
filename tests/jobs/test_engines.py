"""Engines: lines that kill, hang or raise are found and listed, and every engine makes the same bytes."""

import functools
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from nemo_speechlm.errors import InputError, OutputError, SpeechLMError
from nemo_speechlm.files import Record
from nemo_speechlm.jobs import LocalEngine, run_job
from nemo_speechlm.jobs.chunks import ChunkWriter
from nemo_speechlm.jobs.progress import progress_path, skipped_path

Lines = Sequence[tuple[int, str]]


def work(lines: Lines, folder: Path) -> list[Record]:
    """Names its batch in each record; does what a line says it does.

    "once" kills the first process that reads it, "job" the one that started it.
    """
    for number, line in lines:
        what = line.split()[0]
        if what == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "hang":
            time.sleep(100)
        elif what == "raise":
            raise KeyError(what)
        elif what == "wait":
            (folder / f"waiting{number}").touch()
            while not (folder / "go").exists():
                time.sleep(0.02)
        elif what == "once" and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(3)
        elif what == "job" and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(100)
    batch = " ".join(str(number) for number, _ in lines)
    return [{"number": number, "batch": batch} for number, _ in lines]


def make_work(folder: Path):
    return functools.partial(work, folder=folder)


def records(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def source_with(folder: Path, lines: dict[int, str], total: int = 21) -> Path:
    """A file with some lines, counted from 1, and words in the others."""
    path = folder / "source"
    path.write_text("".join(f"{lines.get(number, 'word')} {number}\n" for number in range(1, total + 1)))
    return path


def job(source: Path, output: str, **options):
    folder = source.parent
    make = functools.partial(make_work, folder)
    return run_job(source, folder / output, make, settings={}, batch_size=4, **options)


def test_lines_that_kill_or_hang_are_found_and_listed(tmp_path: Path):
    source = source_with(tmp_path, {6: "die", 19: "hang"})
    engine = LocalEngine(timeout=0.5, retries=1)
    report = job(source, "out", workers=2, skip_bad=True, engine=engine)
    bad = records(skipped_path(tmp_path / "out"))
    assert [line["line"] for line in bad] == [6, 19]
    assert bad[0]["reason"] == "a worker process died on it (SIGSEGV), 2 times"
    assert bad[1]["reason"].startswith("no result within timeout=0.5 seconds (work, test_engines.py:")
    assert report.written == 19
    batches = {record["number"]: record["batch"] for record in records(tmp_path / "out")}
    assert batches[5] == "5", "the batch is halved until the line is alone"
    assert batches[7] == "7 8"
    assert batches[1] == "1 2 3 4", "no other batch is divided"


def test_no_workers_are_one_where_a_timeout_needs_a_process(tmp_path: Path):
    assert job(source_with(tmp_path, {}, total=2), "out", workers=0, engine=LocalEngine(timeout=60)).written == 2


def test_without_skip_bad_a_killer_is_named(tmp_path: Path):
    source = source_with(tmp_path, {6: "die", 2: "once"})
    with pytest.raises(InputError, match=r"source:6: a worker process died on it \(SIGSEGV\), 2 times; skip_bad=true"):
        job(source, "out", workers=2, engine=LocalEngine(retries=1))
    assert (tmp_path / "died").exists(), "a line at which a worker died once is not to blame"
    assert not (tmp_path / "out").exists()


def test_a_worker_that_was_killed_changes_nothing(tmp_path: Path):
    source = source_with(tmp_path, {})
    job(source, "undisturbed")
    source_with(tmp_path, {11: "once"})
    job(source, "killed", workers=2)
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "undisturbed").read_bytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_any_exception_heeds_skip_bad(tmp_path: Path, workers: int):
    source = source_with(tmp_path, {6: "raise"})
    with pytest.raises(InputError, match=r"source:6: KeyError: 'raise' \(test_engines.py:\d+\); skip_bad=true leaves"):
        job(source, "out", workers=workers)
    report = job(source, "out", workers=workers, skip_bad=True)
    assert [line["line"] for line in records(skipped_path(tmp_path / "out"))] == [6]
    assert report.written == 20


def test_the_first_bad_line_is_the_one_that_is_named(tmp_path: Path):
    """Though another worker comes to a later one sooner."""
    source = source_with(tmp_path, dict.fromkeys(range(9, 22), "raise"))
    with pytest.raises(InputError, match="source:9: KeyError"):
        job(source, "out", workers=3)


def no_start():
    os._exit(5)


def test_workers_that_cannot_be_started_are_no_lines_fault(tmp_path: Path):
    source = source_with(tmp_path, {})
    with pytest.raises(SpeechLMError, match=r"die before they begin: .*exit status 5"):
        run_job(
            source, tmp_path / "out", no_start, settings={}, workers=2, skip_bad=True, engine=LocalEngine(retries=0)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["source"], "a job that did nothing leaves nothing"


def test_a_full_disk_is_no_lines_fault(tmp_path: Path, monkeypatch):
    def full(self, lines):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ChunkWriter, "write", full)
    with pytest.raises(OutputError, match="No space left"):
        job(source_with(tmp_path, {}), "out", skip_bad=True)


def half_a_pair(number: int, line: str) -> Record:
    return {"text": "\ud800" if number == 2 else line}


def test_a_result_that_is_no_utf8_is_a_bad_line(tmp_path: Path):
    source = source_with(tmp_path, {}, total=3)
    with pytest.raises(InputError, match="source:2: its result cannot be written as JSON in UTF-8"):
        run_job(source, tmp_path / "out", lambda: half_a_pair, settings={})
    assert run_job(source, tmp_path / "out", lambda: half_a_pair, settings={}, skip_bad=True).written == 2


def test_a_damaged_chunk_is_made_again(tmp_path: Path):
    source = source_with(tmp_path, {})
    job(source, "whole")

    def damage(_):
        path = sorted(progress_path(tmp_path / "out").glob("*.jsonl"))[1]
        path.write_bytes(path.read_bytes().replace(b'"number": ', b'"number":9', 1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job(source, "out", before_rename=damage)
    with pytest.raises(SpeechLMError, match="was damaged after it was written, and has been removed; run the command"):
        job(source, "out")
    assert not (tmp_path / "out").exists()
    job(source, "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"), [({"timeout": 0}, "engine.timeout is 0"), ({"retries": -1}, "retries")]
)
def test_options_of_engines_are_checked(options, message):
    with pytest.raises(SpeechLMError, match=message):
        LocalEngine(**options)

"""Jobs must give the same output whatever the workers, survive a kill, and account for every line."""

import errno
import functools
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from nemo_speechlm.errors import InputError, OutputError, SkipItem, SpeechLMError
from nemo_speechlm.files import Record
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.progress import progress_path, skipped_path
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.jobs.shards import Shard
from tests.long_forms import LONG


def upper(number: int, line: str) -> Record:
    text = line.strip()
    if text == "bad":
        raise InputError(f"{text!r} is bad")
    if text == "odd":
        raise SkipItem("cannot be used")
    if text == "die":
        os._exit(9)
    return {"number": number, "text": text.upper()}


def make_upper():
    return upper


def make_numbers():
    return lambda number, line: {"number": number}


def make_nothing():
    raise InputError("no such lexicon", "lexicon.txt")


def slow(number: int, line: str, log: Path) -> Record:
    with open(log, "a") as file:
        file.write(f"{number}\n")
    time.sleep(0.015)
    while number > 100 and (log.parent / "hold").exists():
        time.sleep(0.01)
    return {"number": number, "text": line.strip()}


def make_slow(log: Path):
    return functools.partial(slow, log=log)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.txt"
    path.write_text("".join(f"line {i}\n" for i in range(300)))
    return path


def records(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_output_is_in_order_and_the_same_for_any_workers(source: Path, tmp_path: Path, workers: int):
    report = run_job(source, tmp_path / "out.json", make_upper, settings={}, workers=workers)
    assert report.written == 300
    assert records(tmp_path / "out.json") == [{"text": f"LINE {i}", "number": i + 1} for i in range(300)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "source.txt"]


def test_gzipped_in_and_out_and_blank_lines_keep_their_numbers(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with gzip.open("in.gz", "wt") as file:
        file.write("a\n\n \nb\n")
    run_job("in.gz", "new/out.gz", make_upper, settings={})
    with gzip.open(tmp_path / "new" / "out.gz", "rt") as file:
        assert [json.loads(line)["number"] for line in file] == [1, 4]


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_line_ends_the_job_with_file_and_line(tmp_path: Path, workers: int):
    source = tmp_path / "source.txt"
    source.write_text("a\nb\nbad\nc\n")
    with pytest.raises(InputError, match=r"source\.txt:3: 'bad' is bad"):
        run_job(source, tmp_path / "out.json", make_upper, settings={}, workers=workers)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_skip_bad_lists_what_was_left_out(tmp_path: Path, workers: int):
    source, output = tmp_path / "source.txt", tmp_path / "out.json"
    source.write_text("a\nbad\nodd\nb\nodd\n")
    report = run_job(source, output, make_upper, settings={}, workers=workers, skip_bad=True)
    assert [r["text"] for r in records(output)] == ["A", "B"]
    assert [(r["line"], r["reason"]) for r in records(skipped_path(output))] == [
        (2, "'bad' is bad"),
        (3, "cannot be used"),
        (5, "cannot be used"),
    ]
    assert report.written == 2
    assert report.skipped == {"... is bad": 1, "cannot be used": 2}


def test_bad_lines_that_were_skipped_end_a_command_that_does_not_skip(tmp_path: Path):
    """A job that was interrupted goes on without skip_bad: what it had left out would be missing all the same."""
    source, output = tmp_path / "source", tmp_path / "out"
    source.write_text("odd\na\nbad\n" + "b\n" * 20 + "end\n")

    def interrupted(number: int, line: str) -> Record:
        if line == "end\n":
            raise KeyboardInterrupt
        return upper(number, line)

    with pytest.raises(KeyboardInterrupt):
        run_job(source, output, lambda: interrupted, settings={}, skip_bad=True)
    with pytest.raises(InputError, match="source:3: 'bad' is bad; skip_bad=true leaves such lines out"):
        run_job(source, output, make_upper, settings={})
    assert not output.exists()
    assert run_job(source, output, lambda: upper, settings={}, skip_bad=True).skipped.total() == 2


def test_an_old_list_of_skipped_lines_goes_with_the_output_it_belonged_to(source: Path, tmp_path: Path):
    output = tmp_path / "out.json"
    skipped_path(output).write_text("old\n")
    run_job(source, output, make_upper, settings={})
    assert not skipped_path(output).exists()


def test_existing_output_stays_unless_told(source: Path, tmp_path: Path):
    output = tmp_path / "out.json"
    output.write_text("mine")
    with pytest.raises(InputError, match="overwrite=true"):
        run_job(source, output, make_upper, settings={})
    assert output.read_text() == "mine"
    assert run_job(source, output, make_upper, settings={}, overwrite=True).written == 300


def test_outputs_are_on_the_disk_before_the_chunks_are_removed(tmp_path: Path, monkeypatch):
    """After a power cut there would be an output without content, and nothing to make it of."""
    source, valid = tmp_path / "source", tmp_path / "valid"
    source.write_text("a\nodd\nb\n")
    real, done = os.fsync, []

    def fsync(descriptor: int) -> None:
        assert progress_path(tmp_path / "out").exists()
        number = os.fstat(descriptor).st_ino
        done.extend(path.name for path in tmp_path.glob(".partial.*") if path.stat().st_ino == number)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    run_job(source, tmp_path / "out", make_upper, settings={}, place=lambda records: [None, valid], others=[valid])
    assert set(done) == {f".partial.{name}" for name in ("out", "out.skipped.jsonl", "valid")}


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_source(tmp_path: Path, content: str):
    (tmp_path / "source.txt").write_text(content)
    with pytest.raises(InputError, match="empty"):
        run_job(tmp_path / "source.txt", tmp_path / "out.json", make_upper, settings={})


def test_nothing_usable_writes_nothing(tmp_path: Path):
    (tmp_path / "source.txt").write_text("odd\nodd\n")
    with pytest.raises(InputError, match="nothing in it could be used: 0 written, 2 left out"):
        run_job(tmp_path / "source.txt", tmp_path / "out.json", make_upper, settings={})
    assert not (tmp_path / "out.json").exists()
    assert not skipped_path(tmp_path / "out.json").exists()


def test_max_lines_reads_no_further(source: Path, tmp_path: Path):
    assert run_job(source, tmp_path / "out.json", make_upper, settings={}, max_lines=7).written == 7


def keep_even(finished: Iterable[Record], elsewhere: Path) -> list[Path | str | None]:
    places: list[Path | str | None] = [None, "third of four", elsewhere]
    return [places[r["number"] % 3] for r in finished]


def test_place_decides_over_all_records(tmp_path: Path):
    source, output, elsewhere = tmp_path / "source.txt", tmp_path / "out.json", tmp_path / "valid.json"
    source.write_text("a\n\nb\nodd\nc\nd\n")
    report = run_job(source, output, make_upper, settings={}, place=functools.partial(keep_even, elsewhere=elsewhere))
    assert [r["text"] for r in records(output)] == ["B", "D"]
    assert [r["text"] for r in records(elsewhere)] == ["C"]
    assert [(r["line"], r["reason"]) for r in records(skipped_path(output))] == [
        (1, "third of four"),
        (4, "cannot be used"),
    ]
    assert report.written == 3


def test_a_worker_that_dies_is_an_error_and_not_a_hang(tmp_path: Path):
    source = tmp_path / "source.txt"
    source.write_text("a\n" * 40 + "die\n" + "b\n" * 40)
    with pytest.raises(SpeechLMError, match="a worker process died"):
        run_job(source, tmp_path / "out.json", make_upper, settings={}, workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_work_that_cannot_be_made_says_why(source: Path, tmp_path: Path, workers: int):
    with pytest.raises(InputError, match=r"lexicon\.txt: no such lexicon"):
        run_job(source, tmp_path / "out.json", make_nothing, settings={}, workers=workers)


KILLED = """
import functools, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from nemo_speechlm.jobs.job import run_job
from test_job import make_slow
if __name__ == "__main__":
    folder, workers = Path(sys.argv[3]), int(sys.argv[4])
    make = functools.partial(make_slow, folder / "log")
    run_job(folder / "source.txt", folder / "out.json", make, settings={"a": Path("x")}, workers=workers)
"""


def done_numbers(folder: Path) -> set[int]:
    """The numbers of the records that a job has written so far."""
    lines = [line for path in folder.glob("0*") for line in path.read_bytes().splitlines(keepends=True)]
    return {json.loads(line)["number"] for line in lines if line.startswith(b'{"number') and line.endswith(b"\n")}


@pytest.mark.parametrize(
    ("workers", "how"), [(2, signal.SIGKILL), (2, signal.SIGINT), *([(1, signal.SIGKILL)] if LONG else [])]
)
def test_a_killed_job_goes_on_where_it_was(source: Path, tmp_path: Path, workers: int, how: signal.Signals):
    """Also: no worker outlives its parent, and a half-written last line does no harm."""
    (tmp_path / "job.py").write_text(KILLED)
    here = Path(__file__).parent
    root = here.parents[1]
    command = [sys.executable, tmp_path / "job.py", root, here, tmp_path, str(workers)]
    partial = progress_path(tmp_path / "out.json")
    (tmp_path / "hold").touch()  # it must not be done before the signal comes, however busy the machine is
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a shell's background job ignores it
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=heed)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(done_numbers(partial)) < 20:
        time.sleep(0.006)
    process.send_signal(how)
    assert process.wait(timeout=30) != 0
    deadline, logs = time.monotonic() + 20, ["", "?"]
    while time.monotonic() < deadline and logs[-1] != logs[-2]:
        time.sleep(0.5)
        logs.append((tmp_path / "log").read_text())
    assert logs[-1] == logs[-2], "a worker is still at it"
    assert not (tmp_path / "out.json").exists()

    (tmp_path / "hold").unlink()
    done = done_numbers(partial)
    with open(next(partial.glob("*.part")), "ab") as file:
        file.write(b'{"number": 4')
    (tmp_path / "log").unlink()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert records(tmp_path / "out.json") == [{"number": i + 1, "text": f"line {i}"} for i in range(300)]
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == sorted({*range(1, 301)} - done)


def test_two_processes_do_not_work_on_one_output(source: Path, tmp_path: Path):
    """The second is refused while the first is at it, unless it does a shard; once the first was killed, it is not."""
    (tmp_path / "job.py").write_text(KILLED)
    here = Path(__file__).parent
    root = here.parents[1]
    output = tmp_path / "out.json"
    (tmp_path / "hold").touch()  # so that it does not end by itself
    process = subprocess.Popen([sys.executable, tmp_path / "job.py", root, here, tmp_path, "1"])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not progress_path(output).exists():
        time.sleep(0.01)
    shard = Shard(1, 3)
    with pytest.raises(InputError, match=rf"out\.json: another process is making it \(process {process.pid} on "):
        run_job(source, output, make_upper, settings={}, overwrite=True)
    assert run_job(source, shard.path(output), make_upper, settings={}, shard=shard).written == 100
    process.kill()
    process.wait(timeout=30)
    assert run_job(source, output, make_upper, settings={}, overwrite=True).written == 300
    assert [record["number"] for record in records(output)] == list(range(1, 301))


def test_the_source_is_not_overwritten(source: Path, tmp_path: Path):
    content = source.read_text()
    (tmp_path / "out.json").hardlink_to(source)
    with pytest.raises(InputError, match=r"out\.json: is also what the input names"):
        run_job(source, tmp_path / "out.json", make_upper, settings={}, overwrite=True)
    old = skipped_path(tmp_path / "new.json")
    old.write_text(content)
    with pytest.raises(InputError, match=r"new\.json\.skipped\.jsonl: is also what the input names"):
        run_job(old, tmp_path / "new.json", make_upper, settings={})
    assert source.read_text() == old.read_text() == content


def test_a_job_of_other_settings_another_source_or_version_is_refused(source: Path, tmp_path: Path, monkeypatch):
    output = tmp_path / "out.json"

    def stop(_):
        raise KeyboardInterrupt

    def interrupted(settings):
        with pytest.raises(KeyboardInterrupt):
            run_job(source, output, make_upper, settings=settings, before_rename=stop)

    def refused(message, **options):
        with pytest.raises(InputError, match=rf"out\.json: its job was begun with another {message}; give that again"):
            run_job(source, output, make_numbers, **{"settings": {"a": 1}, **options})

    interrupted({"a": 1})
    refused(r"a \(1, not 2\)", settings={"a": 2})
    refused(r"b \(none, not \[3\]\)", settings={"a": 1, "b": [3]})
    refused(r"version of numpy \(none, not \"[\w.]+\"\)", libraries=["numpy", "no-such-library"])
    refused(r"manifest \(300 lines, not 7\)", max_lines=7)
    content = source.read_text()
    source.write_text(content.replace("line 7", "line x"))
    refused(r"manifest \(300 lines as well\)")
    source.write_text(content)
    with monkeypatch.context() as patched:
        patched.setattr("nemo_speechlm.__version__", "99.0")
        refused(r"version of nemo_speechlm \(\"[\w.]+\", not \"99\.0\"\)")
    run_job(source, output, make_numbers, settings={"a": 1})
    assert records(output)[7] == {"number": 8, "text": "LINE 7"}, "of the same job, everything is kept"
    output.unlink()
    interrupted({"a": 1})
    run_job(source, output, make_numbers, settings={"a": 2}, overwrite=True)
    assert records(output)[7] == {"number": 8}


def test_a_full_disk_blames_no_line(source: Path, tmp_path: Path, monkeypatch):
    """Neither where the job writes nor where the work does; the same command goes on."""
    full = lambda *_, **__: open("/dev/full", "wb", buffering=0)  # noqa: E731, SIM115
    with monkeypatch.context() as patched:
        patched.setattr("nemo_speechlm.jobs.chunks.open", full, raising=False)
        with pytest.raises(
            OutputError, match=r"cannot be written: No space left on device; .* the same command goes on"
        ):
            run_job(source, tmp_path / "a.json", make_upper, settings={}, skip_bad=True)
    seen = []

    def writes(number: int, line: str) -> Record:
        seen.append(number)
        if number == 30 and seen.count(30) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", "x.npy")
        return upper(number, line)

    with pytest.raises(OutputError, match=r"x\.npy: cannot be written"):
        run_job(source, tmp_path / "b.json", lambda: writes, settings={}, skip_bad=True)
    for name in "ab":
        assert run_job(source, tmp_path / f"{name}.json", lambda: writes, settings={}, skip_bad=True).written == 300
        assert not skipped_path(tmp_path / f"{name}.json").exists()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_report_names_ten_reasons():
    report = JobReport(written=3)
    for i in range(12):
        report.skip("reason " + "abcdefghijkl"[i])
    assert str(report).startswith("3 written, 12 left out\n  1 x reason a")
    assert str(report).endswith("and 2 more reasons")

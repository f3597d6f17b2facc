"""Parts of a job: whole batches, nothing lost or doubled, and joined what one run would have made."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError, SkipItem, SpeechLMError
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.progress import JobFolder, progress_path, skipped_path
from nemo_speechlm.jobs.shards import Shard, shard_plan_path
from nemo_speechlm.tokenizers.base import Tokenizing
from nemo_speechlm.tokenizers.jobs.manifest import tokenize_manifest
from tests.long_forms import LONG


@given(st.integers(0, 200), st.integers(1, 9), st.integers(1, 12))
def test_parts_cover_all_lines_once_and_cut_no_batch(total: int, batch: int, count: int):
    parts = [Shard(index, count).part(total, batch) for index in range(count)]
    assert [line for first, last in parts for line in range(first, last)] == list(range(total))
    assert all(first % batch == 0 or first == total for first, _ in parts)


@pytest.mark.parametrize("text", ["4/4", "1", "-1/4", "1/0", "a/b", "", None])
def test_not_a_shard(text):
    with pytest.raises(SpeechLMError, match="expected i/n"):
        Shard.parse(text)


def work(numbered):
    """What a batch says of each of its lines: all of them, so that another cut would show."""
    batch = " ".join(line.strip() for _, line in numbered)
    return [
        SkipItem(f"line {number} is bad") if "bad" in line else {"number": number, "batch": batch}
        for number, line in numbered
    ]


def make_work():
    return work


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text("".join(f"{'bad' if n % 7 == 3 else 'w'}{n}\n" for n in range(41)))
    return path


def cut_off(folder: Path, cut: int) -> None:
    """Make of a finished job's chunks one that was not finished: ``cut`` records and half a one."""
    paths = sorted(folder.glob("*.jsonl"))
    plan = json.loads(paths[0].read_text().splitlines()[0])["plan"]
    lines = [line for path in paths for line in path.read_bytes().splitlines(keepends=True)[1:-1]]
    assert len(lines) == 41
    for path in paths:
        path.unlink()
    header = json.dumps({"plan": plan, "first": 0, "last": 41}).encode() + b"\n"
    part = b"".join([header, *lines[:cut]]) + b'{"number"'[: 9 * (cut < 41)]
    (folder / "000000000000-000000000041.abc.part").write_bytes(part)


CUTS = [0, 1, 11, 12, 40, 41]


@pytest.mark.parametrize(
    ("workers", "cut"), [*((1, cut) for cut in CUTS), *((2, cut) for cut in (CUTS if LONG else [11, 41]))]
)
def test_batches_are_the_same_after_an_interruption(source: Path, tmp_path: Path, workers: int, cut: int):
    run_job(source, tmp_path / "whole", make_work, settings={}, batch_size=4)
    whole = [(tmp_path / "whole").read_bytes(), skipped_path(tmp_path / "whole").read_bytes()]

    class Stop(BaseException):
        pass

    def interrupted(_):
        raise Stop

    with pytest.raises(Stop):
        run_job(source, tmp_path / "again", make_work, settings={}, batch_size=4, before_rename=interrupted)
    cut_off(progress_path(tmp_path / "again"), cut)
    run_job(source, tmp_path / "again", make_work, settings={}, batch_size=4, workers=workers)
    assert [(tmp_path / "again").read_bytes(), skipped_path(tmp_path / "again").read_bytes()] == whole


@pytest.mark.parametrize("name", ["out.json", "out.json.gz"])
def test_joined_shards_are_what_one_run_makes(source: Path, tmp_path: Path, name: str):
    class Batches(Tokenizing):
        batch_size = 4

    def tokenize(output, shard=None, **options):
        return tokenize_manifest(
            source, tmp_path / output, Batches(), lambda *_: make_work, settings={}, shard=shard, workers=1, **options
        )

    seen = []
    tokenize(name)
    with pytest.raises(InputError, match=r"shard0of3.* no such file; run the command with shard=0/3"):
        tokenize(f"parts_{name}", "join/3")
    for index in (2, 0, 1):
        assert f"parts_out.shard{index}of3" in tokenize(f"parts_{name}", f"{index}/3", before_rename=seen.append)
    assert not seen
    said = tokenize(f"parts_{name}", "join/3", before_rename=seen.append)
    assert "35 written, 6 left out" in said
    assert len(seen) == 1
    assert (tmp_path / f"parts_{name}").read_bytes() == (tmp_path / name).read_bytes()
    assert skipped_path(tmp_path / f"parts_{name}").read_bytes() == skipped_path(tmp_path / name).read_bytes()
    if name.endswith("gz"):
        assert json.loads(gzip.decompress((tmp_path / name).read_bytes()).splitlines()[0])["number"] == 1
    with pytest.raises(InputError, match="exists already"):
        tokenize(f"parts_{name}", "join/3")
    (tmp_path / "source").write_text("w\n" * 42)
    with pytest.raises(InputError, match=r"shard0of3\S*: was made with another manifest \(41 lines, not these 42\)"):
        tokenize(f"parts_{name}", "join/3", overwrite=True)


def test_shards_of_another_job_are_not_joined(source: Path, tmp_path: Path):
    """Each says what it was made of: settings, the options as they were given, its place, its own bytes."""

    def tokenize(shard, seed=0, **options):
        how = Tokenizing()
        options = {"overwrite": True, "settings": {"seed": seed}, "workers": 1} | options
        return tokenize_manifest(source, tmp_path / "out", how, lambda *_: make_work, shard=shard, **options)

    tokenize("0/2")
    tokenize("1/2", seed=1)
    with pytest.raises(InputError, match=r"out\.shard1of2: was made with another seed \(1, not 0\); run .*shard=1/2"):
        tokenize("join/2")
    with pytest.raises(InputError, match=r"out\.shard0of2: was made with another seed \(0, not 1\)"):
        tokenize("join/2", seed=1)
    tokenize("1/2")
    second = tmp_path / "out.shard1of2"
    content = second.read_bytes()
    second.write_bytes(content.replace(b"w40", b"w41"))
    with pytest.raises(InputError, match=r"out\.shard1of2: was changed after it was made"):
        tokenize("join/2")
    second.write_bytes(content)
    for name in ("out.shard0of2", "out.shard0of2.plan.json"):
        (tmp_path / name).rename(tmp_path / f"{name}.kept")
        (tmp_path / name.replace("0of2", "1of2")).rename(tmp_path / name)
        (tmp_path / f"{name}.kept").rename(tmp_path / name.replace("0of2", "1of2"))
    with pytest.raises(InputError, match=r"out\.shard0of2: is shard 1/2, expected 0/2"):
        tokenize("join/2")
    shard_plan_path(tmp_path / "out.shard0of2").unlink()
    with pytest.raises(InputError, match=r"out\.shard0of2\.plan\.json: no such file, .*shard=0/2 overwrite=true"):
        tokenize("join/2")


def test_more_shards_than_lines(source: Path, tmp_path: Path):
    source.write_text("w\n")
    for index in range(3):
        run_job(source, tmp_path / f"{index}", make_work, settings={}, batch_size=4, shard=Shard(index, 3))
    assert [(tmp_path / f"{index}").read_text() == "" for index in range(3)].count(True) == 2


def test_a_run_killed_between_naming_its_files_ends_the_same(source: Path, tmp_path: Path, monkeypatch):
    """The output is there, the progress too: doing it again is no overwriting."""
    output = tmp_path / "out"
    run_job(source, output, make_work, settings={}, batch_size=4)
    expected = output.read_bytes()
    output.unlink()
    skipped_path(output).unlink()

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(JobFolder, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        run_job(source, output, make_work, settings={}, batch_size=4)
    monkeypatch.undo()
    assert output.exists()
    run_job(source, output, make_work, settings={}, batch_size=4)
    assert output.read_bytes() == expected
    assert not progress_path(output).exists()
    with pytest.raises(InputError, match="exists already"):
        run_job(source, output, make_work, settings={}, batch_size=4)


def test_shards_of_two_versions_are_not_joined(source: Path, tmp_path: Path, monkeypatch):
    """Though nobody asks for a version."""

    def tokenize(shard):
        return tokenize_manifest(
            source, tmp_path / "out", Tokenizing(), lambda *_: make_work, settings={}, shard=shard, workers=1
        )

    tokenize("0/2")
    with monkeypatch.context() as patched:
        patched.setattr("nemo_speechlm.__version__", "99.0")
        tokenize("1/2")
    with pytest.raises(InputError, match=r"out\.shard1of2: was made with another version of nemo_speechlm"):
        tokenize("join/2")


def test_a_job_of_other_batches_is_not_continued(source: Path, tmp_path: Path):
    def killed(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(source, tmp_path / "out", make_work, settings={}, batch_ends=[5, 20, 41], before_rename=killed)
    with pytest.raises(InputError, match="its job was begun with another batches"):
        run_job(source, tmp_path / "out", make_work, settings={}, batch_ends=[5, 21, 41])
    run_job(source, tmp_path / "out", make_work, settings={}, batch_ends=[5, 20, 41])
    batches = {json.loads(line)["batch"] for line in (tmp_path / "out").read_text().splitlines()}
    assert [len(batch.split()) for batch in sorted(batches, key=len)] == [5, 15, 21]

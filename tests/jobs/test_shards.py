"""Parts of a job: whole batches, nothing lost or doubled, and joined what one run would have made."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError, SkipItem, SpeechLMError
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.progress import progress_path, skipped_path
from nemo_speechlm.jobs.shards import Shard
from nemo_speechlm.tokenizers.base import Tokenizing
from nemo_speechlm.tokenizers.jobs.manifest import tokenize_manifest


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


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("cut", [0, 1, 11, 12, 40, 41])
def test_batches_are_the_same_after_an_interruption(source: Path, tmp_path: Path, workers: int, cut: int):
    run_job(source, tmp_path / "whole", make_work, settings={}, batch_size=4)
    whole = [(tmp_path / "whole").read_bytes(), skipped_path(tmp_path / "whole").read_bytes()]

    class Stop(BaseException):
        pass

    def interrupted(_):
        raise Stop

    with pytest.raises(Stop):
        run_job(source, tmp_path / "again", make_work, settings={}, batch_size=4, before_rename=interrupted)
    lines = progress_path(tmp_path / "again").read_bytes().splitlines(keepends=True)
    assert len(lines) == 42
    progress_path(tmp_path / "again").write_bytes(b"".join(lines[: cut + 1]) + b'{"number"'[: 9 * (cut < 41)])
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
    with pytest.raises(InputError, match=r"its shards have 41 lines, .* has 42"):
        tokenize(f"parts_{name}", "join/3", overwrite=True)


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

    def killed(self, missing_ok=False):
        if self == progress_path(output):
            raise KeyboardInterrupt
        return unlink(self, missing_ok)

    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        run_job(source, output, make_work, settings={}, batch_size=4)
    monkeypatch.undo()
    assert output.exists()
    run_job(source, output, make_work, settings={}, batch_size=4)
    assert output.read_bytes() == expected
    assert not progress_path(output).exists()
    with pytest.raises(InputError, match="exists already"):
        run_job(source, output, make_work, settings={}, batch_size=4)

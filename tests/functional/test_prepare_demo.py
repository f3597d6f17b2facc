import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def prepare(*arguments):
    command = [sys.executable, str(EXAMPLES / "prepare_data.py"), "corpus=demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_makes_the_corpus_once(tmp_path):
    pytest.importorskip("espeakng_loader")
    amounts = [f"{part}_minutes=0.05" for part in ("train", "untranscribed", "valid", "test")]
    done = prepare(f"output={tmp_path}", "sentences=20", *amounts)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/text.txt: 20 lines" in done.stdout
    again = prepare(f"output={tmp_path}", "sentences=20", *amounts)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    (tmp_path / "train" / "00099.flac").touch()
    assert prepare(f"output={tmp_path}", "sentences=30", "overwrite=true", *amounts).returncode == 0
    assert not (tmp_path / "train" / "00099.flac").exists()


@pytest.mark.parametrize(
    "argument", ["train_minutes=0", "test_minutes=many", "sentences=0", "vocabulary_share=2", "seed=-1"]
)
def test_bad_amounts_are_named(tmp_path, argument):
    done = prepare(f"output={tmp_path / 'new'}", argument)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {argument.split('=')[0]} is ")
    assert not (tmp_path / "new").exists()

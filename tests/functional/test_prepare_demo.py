"""prepare_data.py corpus=demo as a user runs it."""

import pytest


@pytest.fixture
def prepare(run):
    return lambda *arguments: run("prepare_data.py", "corpus=demo", *arguments)


def test_makes_the_corpus_once(prepare, tmp_path):
    pytest.importorskip("espeakng_loader")
    amounts = [f"{part}_minutes=0.05" for part in ("train", "untranscribed", "valid", "test")]
    status, printed = prepare(f"output={tmp_path}", "sentences=20", *amounts)
    assert status == 0, printed
    assert f"{tmp_path}/text.txt: 20 lines" in printed
    status, printed = prepare(f"output={tmp_path}", "sentences=20", *amounts)
    assert status == 1
    assert "exists already" in printed
    (tmp_path / "train" / "00099.flac").touch()
    status, printed = prepare(f"output={tmp_path}", "sentences=30", "overwrite=true", *amounts)
    assert status == 0, printed
    assert not (tmp_path / "train" / "00099.flac").exists()


@pytest.mark.parametrize(
    "argument", ["train_minutes=0", "test_minutes=many", "sentences=0", "vocabulary_share=2", "seed=-1"]
)
def test_bad_amounts_are_named(prepare, tmp_path, argument):
    status, printed = prepare(f"output={tmp_path / 'new'}", argument)
    assert status == 1
    assert printed.startswith(f"error: {argument.split('=')[0]} is ")
    assert not (tmp_path / "new").exists()

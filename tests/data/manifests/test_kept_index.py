import os

import numpy as np
import pytest

from nemo_speechlm.data.manifests import kept_index as module
from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.jobs.lines import index_lines


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_FROM", 10)
    monkeypatch.setattr(module, "SETTLED", -1)
    path = tmp_path / "text.json"
    path.write_text("".join(f"line {i}\n" + "\n" * (i % 3 == 0) for i in range(100)))
    return path


@pytest.fixture
def scans(monkeypatch):
    """Which files were read whole."""
    found = []

    def scan(source, *args, **kwargs):
        found.append(source)
        return index_lines(source, *args, **kwargs)

    monkeypatch.setattr(module, "index_lines", scan)
    return found


def lines(path):
    index = IndexedManifest(path)
    return [index[i] for i in range(len(index))]


def test_the_second_time_the_file_is_not_read(path, scans):
    first = lines(path)
    assert [line for _, line in first] == [f"line {i}" for i in range(100)]
    assert lines(path) == first
    assert len(scans) == 1
    assert {file.name for file in path.parent.iterdir()} == {"text.json", ".text.json.lines.npy"}


def test_a_changed_file_is_read_anew(path, scans):
    lines(path)
    state = path.stat()
    changed = path.read_text().replace("\n\n", "\nx")
    path.write_text(changed)  # as many bytes
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # and as old, as rsync and cp -p leave it
    assert [line for _, line in lines(path)] == changed.splitlines()
    assert len(scans) == 2
    path.with_name("copy.json").write_text("other\n" * 3)
    path.with_name("copy.json").replace(path)
    assert [line for _, line in lines(path)] == ["other"] * 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "pickled"])
def test_a_damaged_index_is_made_anew(path, scans, damage):
    first = lines(path)
    kept = module.index_path(path)
    content = bytearray(kept.read_bytes())
    if damage == "flipped":
        content[-9] ^= 1
    elif damage == "pickled":
        np.save(kept, np.array([{}, 1], dtype=object), allow_pickle=True)
        content = kept.read_bytes()
    kept.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(damage, bytes(content)))
    assert lines(path) == first
    assert lines(path) == first
    assert len(scans) == 2


def test_what_cannot_be_kept_is_not(path, scans, monkeypatch):
    def refuse(path):
        raise InputError("cannot be written: Permission denied", path)

    monkeypatch.setattr(module, "whole_file", refuse)
    assert lines(path) == lines(path)
    assert len(scans) == 2
    assert len(list(path.parent.iterdir())) == 1


def test_small_files_have_no_index(path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_FROM", 1 << 20)
    assert len(lines(path)) == 100
    assert len(list(path.parent.iterdir())) == 1


def test_a_file_that_was_just_changed_is_not_trusted(path, scans, monkeypatch):
    """Another change may leave it the same time."""
    monkeypatch.setattr(module, "SETTLED", 10**12)
    assert lines(path) == lines(path)
    assert len(scans) == 2
    assert len(list(path.parent.iterdir())) == 1


def test_another_grain_is_another_index(path, scans):
    assert module.kept_index(path, 8).total == module.kept_index(path, 16).total == 100
    assert len(scans) == 2


def test_errors_are_those_of_reading(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file"):
        module.kept_index(tmp_path / "nowhere", 8)

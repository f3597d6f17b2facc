import json
import os
from dataclasses import fields

import numpy as np
import pytest

from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.manifests import kept_index
from nemo_speechlm.data.recognition import kept_statistics as module
from nemo_speechlm.data.recognition.kept_statistics import kept_statistics, statistics_path
from nemo_speechlm.data.recognition.loader import _writing_of
from nemo_speechlm.data.recognition.transcripts import TranscriptStatistics
from nemo_speechlm.data.text.characters import CharacterEncoder
from nemo_speechlm.data.text.target_vocabulary import CharacterVocabulary
from nemo_speechlm.errors import OutputError

FOUND = TranscriptStatistics(
    3, 1.5, 70, 2, np.array([12.5, 3.25, 9], dtype=np.float32), 17.25, 40, (BadExample("m.json", 4, "is empty"),)
)


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_index, "KEPT_FROM", 10)
    monkeypatch.setattr(kept_index, "SETTLED", -1)
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"text": "a"}) * 5)
    return path


class Check:
    """Counts how often it is asked."""

    def __init__(self):
        self.asked = 0

    def __call__(self):
        self.asked += 1
        return FOUND


def same(one, other):
    values = ((getattr(one, field.name), getattr(other, field.name)) for field in fields(TranscriptStatistics))
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in values)


def test_a_manifest_is_checked_once_for_each_question(manifest):
    check = Check()
    for asked, before in (("a", False), ("a", True), ("b", False), ("b", True), ("a", False)):
        found, kept = kept_statistics(manifest, asked, check)
        assert kept is before
        assert same(found, FOUND)
    assert check.asked == 3
    assert {file.name for file in manifest.parent.iterdir()} == {"train.json", ".train.json.transcripts.npz"}


def test_a_changed_manifest_is_checked_anew(manifest):
    check = Check()
    kept_statistics(manifest, "a", check)
    state = manifest.stat()
    manifest.write_text(manifest.read_text().replace("a", "b"))  # as many bytes
    os.utime(manifest, ns=(state.st_atime_ns, state.st_mtime_ns))  # and as old
    assert not kept_statistics(manifest, "a", check)[1]
    assert kept_statistics(manifest, "a", check)[1]
    assert check.asked == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_what_is_damaged_is_not_believed(manifest, damage):
    check = Check()
    kept_statistics(manifest, "a", check)
    path = statistics_path(manifest)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"cut": content[: len(content) // 2], "empty": b"", "other": b"{}", "flipped": bytes(content)}[damage]
    path.write_bytes(damaged)
    found, before = kept_statistics(manifest, "a", check)
    assert not before
    assert same(found, FOUND)


def test_what_cannot_be_kept_is_checked_each_time(manifest, monkeypatch):
    def refuse(path):
        raise OutputError(path, "No space left on device")

    monkeypatch.setattr(module, "whole_file", refuse)
    check = Check()
    assert [kept_statistics(manifest, "a", check)[1] for _ in range(2)] == [False, False]


def test_what_depends_on_something_unknown_is_not_kept(manifest):
    assert [kept_statistics(manifest, None, Check())[1] for _ in range(2)] == [False, False]
    assert not statistics_path(manifest).exists()


def test_small_manifests_have_no_file_beside_them(manifest, monkeypatch):
    monkeypatch.setattr(kept_index, "KEPT_FROM", 1000)
    kept_statistics(manifest, "a", Check())
    assert [file.name for file in manifest.parent.iterdir()] == ["train.json"]


def test_writing_is_what_an_encoder_does():
    one, other = (repr(_writing_of(CharacterEncoder(labels))) for labels in ("ab", "ab"))
    assert one == other
    assert one != repr(_writing_of(CharacterEncoder("ba")))
    vocabularies = [repr(_writing_of(CharacterVocabulary("ab", space))) for space in (True, False)]
    assert len({one, *vocabularies}) == 3
    assert _writing_of(len) is None

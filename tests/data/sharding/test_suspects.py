"""A line that kills the process that reads it is found and told, or listed."""

import os
import sys

import numpy as np
import pytest
import soundfile

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.sharding.encoding import AudioEncoding
from nemo_speechlm.data.sharding.job import Division, make_shards
from nemo_speechlm.data.sharding.suspects import Suspects, check_suspect
from nemo_speechlm.errors import InputError
from tests.long_forms import LONG


def test_who_comes_after_a_dead_worker_knows_where_it_died(tmp_path):
    dead = Suspects(tmp_path, 3).__enter__()
    assert [dead.at(row) for row in (12345, 7)] == [False, False]  # and no __exit__
    second = Suspects(tmp_path, 3).__enter__()
    assert [second.at(row) for row in (12345, 7, 8)] == [False, True, False]
    second.__exit__(KeyboardInterrupt, None, None)
    with Suspects(tmp_path, 3) as third:
        assert [third.at(row) for row in (7, 8)] == [True, False]
    assert list(tmp_path.iterdir()) == []
    with Suspects(tmp_path, 3) as fourth:
        assert not fourth.at(7)


DIES = """
import os, signal
from nemo_speechlm.data.sharding.encoding import AudioEncoding

def encoded(self, record, manifest, number):
    os.kill(os.getpid(), signal.SIGSEGV)

AudioEncoding.encoded = encoded
"""


def test_a_suspect_is_read_in_another_process(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    manifest = str(tmp_path / "m.json")
    check_suspect(AudioEncoding(), manifest, 4, '{"audio_filepath": "a.wav"}')
    if LONG:
        check_suspect(AudioEncoding(), manifest, 4, '{"audio_filepath": "none.wav"}')  # that is told by others
    (tmp_path / "sitecustomize.py").write_text(DIES)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(InputError, match=r"m\.json:4: a process that reads its audio dies \(SIGSEGV\)"):
        check_suspect(AudioEncoding(), manifest, 4, '{"audio_filepath": "a.wav"}')


@pytest.mark.skipif(not LONG, reason="starts processes: with LONG_TESTS=1")
def test_a_job_goes_on_behind_a_line_that_kills_its_workers(tmp_path, monkeypatch):
    for name in ("a", "b", "c", "d"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(1600), 16000)
    write_manifest(tmp_path / "m.json", [{"audio_filepath": f"{name}.wav"} for name in "abcd"])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        DIES.replace("def encoded", "before = AudioEncoding.encoded\ndef encoded").replace(
            "    os.kill",
            "    if record['audio_filepath'] != 'c.wav':\n"
            "        return before(self, record, manifest, number)\n    os.kill",
        )
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *sys.path]))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    options = {"encoding": AudioEncoding(), "division": Division(shards=2, shuffle=False), "workers": 2}
    with pytest.raises(InputError, match=r"m\.json:3: a process that reads its audio dies"):
        make_shards(str(tmp_path / "m.json"), tmp_path / "out", **options)
    make_shards(str(tmp_path / "m.json"), tmp_path / "new", skip_bad=True, **options)
    assert [(r["line"], r["reason"]) for _, r in read_manifest(tmp_path / "new" / "skipped.jsonl")] == [
        (3, "a process that reads its audio dies (SIGSEGV)")
    ]

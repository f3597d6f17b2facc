"""Handfuls of shuffled utterances."""

import json

import numpy as np
import pytest
import soundfile

from nemo_speechlm.data.audio.shuffled import ShuffledAudio
from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import InputError


@pytest.fixture
def manifests(tmp_path):
    """Eleven utterances in two files; each is a constant that tells which it is."""
    paths = []
    for name, numbers in (("a", range(1, 8)), ("b", range(8, 12))):
        records = []
        for number in numbers:
            soundfile.write(tmp_path / f"{number}.wav", np.full(1600, number / 100), 16000, subtype="FLOAT")
            records.append({"audio_filepath": f"{number}.wav", "duration": 0.1})
        write_manifest(tmp_path / f"{name}.json", records)
        paths.append(tmp_path / f"{name}.json")
    return paths


def numbers(stream):
    return [round(float(audio[0]) * 100) for handful in stream for audio in handful.audio]


def test_all_of_them_once_in_an_order_that_the_seed_decides(manifests):
    stream = ShuffledAudio(manifests, 16000, seed=3, size=4)
    assert len(stream) == 3
    assert sorted(numbers(stream)) == list(range(1, 12))
    assert numbers(stream) != list(range(1, 12))
    assert numbers(ShuffledAudio(manifests, 16000, seed=3, size=4)) == numbers(stream)
    assert numbers(ShuffledAudio(manifests, 16000, seed=4, size=4)) != numbers(stream)
    assert [round(float(a[0]) * 100) for a in stream[1].audio] == numbers(stream)[4:8]


def test_hours(manifests):
    stream = ShuffledAudio(manifests, 16000, max_hours=0.45 / 3600)
    assert stream.utterances == 5
    assert numbers(stream) == numbers(ShuffledAudio(manifests, 16000))[:5]
    text = manifests[1].read_text()
    manifests[1].write_text(
        "".join(json.dumps({"audio_filepath": json.loads(t)["audio_filepath"]}) + "\n" for t in text.splitlines())
    )
    assert ShuffledAudio(manifests, 16000, max_hours=0.45 / 3600).utterances == 5, "lengths are those of the files"
    assert ShuffledAudio(manifests, 16000, max_hours=1).utterances == 11


def test_what_is_wrong(manifests, tmp_path):
    (tmp_path / "5.wav").unlink()
    with pytest.raises(InputError, match=r"a\.json:5: .*5\.wav: no such audio file"):
        numbers(ShuffledAudio(manifests, 16000))
    stream = ShuffledAudio(manifests, 16000, skip_bad=True)
    assert sorted(numbers(stream)) == [n for n in range(1, 12) if n != 5]
    assert [str(e).count("5.wav") for handful in stream for e in handful.errors] == [1]

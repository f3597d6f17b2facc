"""Phones and hidden units of the same utterances: joined, in the same frames, padded."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.phone_units import Filters, PairedUnits, frames_of_phones, speakers_of
from nemo_speechlm.data.pretraining.batch import PAD_UNIT
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_hidden_inventory, tiny_inventory, tiny_paired_corpus


@pytest.fixture
def corpus(tmp_path):
    return tiny_paired_corpus(tmp_path, size=6)


def paired(corpus, phone_manifest=True, manifest=None, **arguments):
    manifests = [manifest or corpus.hidden_manifest]
    phone_manifests = [corpus.phone_manifest] if phone_manifest else None
    return PairedUnits(manifests, phone_manifests, tiny_hidden_inventory(), tiny_inventory(), **arguments)


def records(path):
    return [record for _, record in read_manifest(path)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.sampled_from([25, 50, 100, 200 / 3]))
def test_boundaries_are_rounded(durations, rate):
    seconds = sum(durations) / 100
    num_frames = int(seconds * rate)
    if not num_frames:
        return
    frames = frames_of_phones(durations, 100, num_frames, rate)
    assert sum(frames) == num_frames
    assert min(frames) >= 0
    ends = np.cumsum(durations) / 100 * rate
    assert np.abs(np.cumsum(frames)[:-1] - np.minimum(ends, num_frames)[:-1]).max(initial=0) <= 0.5 + 1e-6


def test_units_may_end_a_little_early_or_late():
    assert frames_of_phones([10, 10, 1], 100, 10, 50) == [5, 5, 0]
    assert frames_of_phones([10, 10], 100, 12, 50) == [5, 7]
    assert frames_of_phones([10, 10, 2, 2], 100, 10, 50) == [5, 5, 0, 0]
    with pytest.raises(InputError, match=r"x\.json:3: its phones last 0\.20 s, its units 0\.40 s; .*frame rates"):
        frames_of_phones([10, 10], 100, 20, 50, "x.json", 3)


def test_two_manifests(corpus):
    data = paired(corpus)
    assert len(data) == 6
    for item, record in zip((data[i] for i in range(6)), records(corpus.phone_manifest), strict=True):
        assert item.phones.tolist() == tiny_inventory().encode(record["units"])
        assert item.durations.tolist() == [duration // 2 for duration in record["unit_durations"]]
        owner = np.repeat(item.phones, item.durations)
        assert (item.units % 3 == owner % 3).all(), "units stand beside the phones that they follow from"


def test_one_manifest(corpus, tmp_path):
    both = [
        {**hidden, "phones": spoken["units"], "phone_durations": spoken["unit_durations"]}
        for hidden, spoken in zip(records(corpus.hidden_manifest), records(corpus.phone_manifest), strict=True)
    ]
    write_manifest(tmp_path / "both.json", both)
    one, two = paired(corpus, False, tmp_path / "both.json"), paired(corpus)
    for number in range(6):
        for ours, theirs in zip(one[number][:4], two[number][:4], strict=True):
            assert np.array_equal(ours, theirs)
    with pytest.raises(InputError, match=r"hidden_manifest\.json:1: no key 'phones', 'phone_durations'"):
        paired(corpus, False)


def test_joined_by_file_and_offset(corpus, tmp_path):
    spoken, hidden = records(corpus.phone_manifest), records(corpus.hidden_manifest)
    for number, record in enumerate(spoken):
        record |= {"audio_filepath": "one.wav", "offset": number * 10.0}
    (tmp_path / "other").mkdir()
    for number, record in enumerate(hidden):
        record |= {"audio_filepath": "../one.wav", "offset": number * 10.0}
    write_manifest(corpus.phone_manifest, reversed(spoken[1:]))
    write_manifest(tmp_path / "other/hidden.json", hidden)
    data = paired(corpus, manifest=tmp_path / "other/hidden.json")
    assert len(data) == 5
    assert data.left_out == {"no phones in the other manifest": 1}
    assert data[0].phones.tolist() == tiny_inventory().encode(spoken[1]["units"])


def test_filters(corpus):
    frames = paired(corpus).frames()
    longest = int(frames.max())
    data = paired(corpus, filters=Filters(min_frames=int(frames.min()) + 1, max_frames=longest - 1))
    assert len(data) == ((frames > frames.min()) & (frames < longest)).sum()
    assert data.left_out["too long"] == (frames == longest).sum()
    with pytest.raises(InputError, match="no utterance is left: 6 too short"):
        paired(corpus, filters=Filters(min_frames=10**6))


def test_speakers(corpus):
    assert speakers_of([corpus.hidden_manifest]) == ["s0", "s1"]
    data = paired(corpus, speakers=["s1", "s0"])
    assert [data[number].speaker for number in range(6)] == [1, 0, 1, 0, 1, 0]
    with pytest.raises(InputError, match=r":2: speaker is 's1', expected one of the model's 1 speakers"):
        paired(corpus, speakers=["s0"])


def test_null_is_no_speaker(tmp_path):
    (tmp_path / "m.json").write_text('{"speaker": "a"}\n{"speaker": null}\n')
    with pytest.raises(InputError, match=r"m\.json:2: speaker is null, expected a name"):
        speakers_of([tmp_path / "m.json"])


def test_collate(corpus):
    data = paired(corpus, speakers=["s0", "s1"])
    items = [data[0], data[1], data[2]]
    batch = data.collate(items)
    for row, item in enumerate(items):
        P, T = len(item.phones), len(item.units)
        assert batch.phone_lengths[row] == P
        assert batch.phones[row, :P].tolist() == item.phones.tolist()
        assert batch.durations[row, :P].tolist() == item.durations.tolist()
        assert batch.units[row, :T].tolist() == item.units.tolist()
        assert not batch.durations[row, P:].any()
        assert (batch.units[row, T:] == PAD_UNIT).all()
    assert batch.speakers.tolist() == [0, 1, 0]
    assert batch.ids == tuple(f"{corpus.hidden_manifest}:{line}" for line in (1, 2, 3))
    assert paired(corpus).collate(items).speakers is None


def test_wrong_frame_rate_is_told(corpus):
    lines = corpus.hidden_manifest.read_text().splitlines()
    record = json.loads(lines[0])
    record["unit_durations"] = [2 * duration for duration in record["unit_durations"]]
    corpus.hidden_manifest.write_text(json.dumps(record) + "\n")
    with pytest.raises(InputError, match=r"hidden_manifest\.json:1: units last .*another frame rate"):
        paired(corpus)

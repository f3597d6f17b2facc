"""Cuts of Lhotse's own, which NeMo reads: their channels, files, transforms and tracks hold in pretraining."""

import numpy as np
import pytest
import soundfile
from lhotse import AudioSource, CutSet, MonoCut, Recording, SupervisionSegment

from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader
from nemo_speechlm.data.pretraining.streams import PairStream, SpeechStream, TokenTextStream
from nemo_speechlm.data.pretraining.utterance_audio import audio_and_units, audio_of
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_inventory

RATE = 16000
SAMPLES = 4 * RATE


def written(path, samples):
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return str(path)


@pytest.fixture
def ramp(tmp_path):
    """A recording whose samples tell their place in it."""
    return Recording.from_file(written(tmp_path / "ramp.wav", np.linspace(0.0, 0.9, SAMPLES, dtype=np.float32)))


def cut_of(recording, channel=0, start=0.0, duration=4.0, **custom):
    text = SupervisionSegment(f"text{channel}", recording.id, 0.0, duration, channel, text="ab")
    return MonoCut(f"cut{channel}", start, duration, channel, [text], recording=recording, custom=custom or None)


@pytest.mark.parametrize("files", [1, 2])
def test_each_cut_has_its_channel(tmp_path, files):
    channels = np.stack([np.full(SAMPLES, 0.5), np.full(SAMPLES, -0.25)], axis=1).astype(np.float32)
    if files == 1:
        sources = [AudioSource("file", [0, 1], written(tmp_path / "both.wav", channels))]
    else:
        sources = [AudioSource("file", [c], written(tmp_path / f"{c}.wav", channels[:, c])) for c in (0, 1)]
    recording = Recording("call", sources, RATE, SAMPLES, 4.0)
    path = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts(cut_of(recording, channel) for channel in (0, 1)).to_file(path)
    config = {"speech": {"cuts_path": str(path), "batch_size": 2, "shuffle": False}, "seed": 0}
    batch = next(iter(build_pretrain_dataloader(config, [SpeechStream(None)]))).speech
    found = dict(zip(batch.ids, batch.audio[:, 100].tolist(), strict=True))
    assert found == {"cut0": 0.5, "cut1": -0.25}


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_part_of_what_is_played_faster(ramp, speed):
    cut = cut_of(ramp).perturb_speed(speed).truncate(offset=2.0, duration=1.0)
    np.testing.assert_array_equal(audio_of(cut, RATE), cut.load_audio()[0])


def test_one_cut_of_two(ramp):
    joined = cut_of(ramp).append(cut_of(ramp, duration=1.0))
    np.testing.assert_array_equal(audio_of(joined, RATE), joined.load_audio()[0])
    assert len(audio_of(joined, RATE)) == 5 * RATE


def test_another_rate(ramp):
    assert len(audio_of(cut_of(ramp), 8000)) == SAMPLES // 2


def test_units_go_with_the_audio(ramp):
    inventory = tiny_inventory()
    names = [inventory.symbols[i] for i in (0, 1, 0)]
    custom = {"units": " ".join(names), "unit_durations": [100, 200, 100]}
    whole = ramp.to_cut().load_audio()[0]
    cut = cut_of(ramp, start=0.9972, duration=1.0, **custom)
    audio, found = audio_and_units(cut, inventory, RATE)
    np.testing.assert_array_equal(audio, whole[RATE : RATE + len(audio)])  # the nearest border of two frames
    assert len(audio) == RATE
    assert found.tolist() == [1] * 100
    noise = cut_of(ramp, duration=1.0)
    mixed, same = audio_and_units(cut.mix(noise, snr=10), inventory, RATE)
    assert len(mixed) == len(audio)
    assert same.tolist() == found.tolist()
    assert not np.allclose(mixed, audio)


def test_units_of_other_audio(ramp):
    inventory = tiny_inventory()
    custom = {"units": inventory.symbols[0], "unit_durations": [400]}
    with pytest.raises(InputError, match="Speed, and its units are those of another speed"):
        audio_and_units(cut_of(ramp, **custom).perturb_speed(1.01), inventory, RATE)
    with pytest.raises(InputError, match="several utterances, and its units are those of the first"):
        audio_and_units(cut_of(ramp, **custom).append(cut_of(ramp, **custom)), inventory, RATE)


def test_several_readers_in_one_order(ramp, tmp_path):
    path = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts([cut_of(ramp)]).to_file(path)
    config = {"speech": {"cuts_path": str(path), "batch_size": 1, "shuffle": False}, "seed": 0}
    with pytest.raises(InputError, match=r"speech.shuffle=false .* 2 readers .* each would read the same"):
        build_pretrain_dataloader(config, [SpeechStream(None)], 0, 2)


@pytest.mark.parametrize("stream", [PairStream(labels=list(" ab")), TokenTextStream(labels=list(" ab"))])
def test_streams_of_our_own_types_alone(stream, tmp_path):
    config = {stream.name: {"cuts_path": str(tmp_path / "cuts.jsonl.gz"), "batch_size": 2}, "seed": 0}
    with pytest.raises(
        InputError, match=f"{stream.name} has data that NeMo reads, .* of the type {stream.reader.type}"
    ):
        build_pretrain_dataloader(config, [stream])

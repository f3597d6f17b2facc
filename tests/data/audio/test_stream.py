import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.audio.stream import cut_at_silences, quietest, stream_audio
from nemo_speechlm.errors import InputError
from tests.memory import traced_peak

RATE = 1000


def noise(seconds, seed=0, rate=RATE):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def blocks_of(samples, size=777):
    return iter([samples[i : i + size] for i in range(0, len(samples), size)])


@pytest.mark.parametrize(("rate", "channels"), [(48000, 2), (16000, 1), (8000, 1), (22050, 3)])
def test_streams_what_is_read_at_once(tmp_path, rate, channels):
    path = tmp_path / "a.wav"
    time = np.arange(3 * rate) / rate
    samples = np.stack([0.4 * np.sin(2 * np.pi * (200 + 50 * c) * time) for c in range(channels)], 1)
    soundfile.write(path, samples, rate)
    streamed = np.concatenate(list(stream_audio(path)))
    whole = read_audio(path)
    assert abs(len(streamed) - len(whole)) <= 1
    n = min(len(streamed), len(whole))
    assert np.abs(streamed[:n] - whole[:n])[100:-100].max() < 0.01
    last = np.concatenate(list(stream_audio(path, rate, channels - 1)))
    assert np.abs(last - samples[:, -1]).max() < 1e-3


def test_what_is_no_audio(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("hello\n" * 100)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "some.wav", np.zeros(10), 16000)
    soundfile.write(tmp_path / "loud.wav", np.full(10, 1e20), 16000, subtype="FLOAT")
    for name, message in [
        ("empty.wav", "the file is empty"),
        ("text.wav", "not audio that can be read"),
        ("none.wav", "audio with no samples"),
        ("loud.wav", r"samples as large as 1e\+20"),
        ("missing.wav", "no such audio file"),
    ]:
        with pytest.raises(InputError, match=message):
            list(stream_audio(tmp_path / name))
    with pytest.raises(InputError, match="no channel 1; it has 1"):
        list(stream_audio(tmp_path / "some.wav", channel=1))


def test_cuts_in_the_pauses():
    pauses = [7.0, 15.0, 21.5]
    samples = noise(30)
    for pause in pauses:
        samples[round(pause * RATE) : round((pause + 0.5) * RATE)] *= 0.001
    segments = list(cut_at_silences(blocks_of(samples), RATE, max_duration=10, min_duration=3))
    cuts = [segment.start for segment in segments[1:]]
    assert len(cuts) == 3
    for cut, pause in zip(cuts, pauses, strict=True):
        assert pause <= cut <= pause + 0.5


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60000), st.floats(2.0, 12.0), st.floats(0.1, 1.9), st.integers(1, 20000), st.integers(0, 2**31 - 1)
)
def test_loses_nothing(count, longest, shortest, block, seed):
    samples = noise(count / RATE, seed)
    samples[count // 3 : count // 2] = 0.0
    segments = list(cut_at_silences(blocks_of(samples, block), RATE, longest, shortest, silence=None))
    assert np.array_equal(np.concatenate([s.samples for s in segments]), samples)
    assert all(len(s.samples) <= longest * RATE + 1 for s in segments)
    assert all(len(s.samples) >= min(shortest, longest) * RATE - 10 for s in segments[:-1])
    starts = np.cumsum([0, *(len(s.samples) for s in segments[:-1])]) / RATE
    assert np.allclose([s.start for s in segments], starts)


def test_silence_is_left_out():
    samples = np.concatenate([noise(4), np.zeros(12 * RATE, dtype=np.float32), noise(4)])
    segments = list(cut_at_silences(blocks_of(samples), RATE, 5, 2))
    assert sum(len(s.samples) for s in segments) < 14 * RATE
    assert segments[0].start == 0.0
    assert segments[-1].start + len(segments[-1].samples) / RATE == 20.0
    assert not list(cut_at_silences(blocks_of(np.zeros(RATE, dtype=np.float32)), RATE))


def test_the_quietest_place():
    samples = noise(10)
    samples[6000:6400] *= 0.01
    assert 6000 <= quietest(samples, RATE, 2000) <= 6400
    assert quietest(samples[:5], RATE, 0) <= 5


def test_memory_does_not_grow_with_length():
    def endless(seconds):
        for i in range(seconds):
            yield noise(1, i)

    def pieces_of(seconds):
        return sum(1 for _ in cut_at_silences(endless(seconds), RATE, 10, 2))

    peaks = []
    for seconds in (60, 600):
        peak, pieces = traced_peak(pieces_of, seconds)
        assert pieces >= seconds // 10
        peaks.append(peak)
    assert peaks[1] < 1.5 * peaks[0]

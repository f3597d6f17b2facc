"""Recordings of any length: what is in memory does not depend on it."""

import wave

import numpy as np
import pytest

from nemo_speechlm.inference.recognizers import Passage
from nemo_speechlm.inference.recordings import CuttingOptions, transcribe_files
from tests.memory import traced_peak

RATE = 8000
OPTIONS = CuttingOptions(max_segment=10.0, min_segment=2.0, batch_duration=30.0)


def recording(path, minutes):
    """Noise with a pause every 7 seconds, the same minute again and again."""
    samples = np.random.default_rng(0).integers(-9000, 9000, 60 * RATE).astype(np.int16)
    for second in range(6, 60, 7):
        samples[second * RATE : second * RATE + RATE // 2] = 0
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        for _ in range(minutes):
            file.writeframes(samples.tobytes())
    return path


class Counter:
    """A recognizer that counts what it is given."""

    def __init__(self):
        self.batches = []

    def __call__(self, segments, sample_rate):
        self.batches.append(sum(len(segment.samples) for segment in segments) / sample_rate)
        return [Passage(s.start, s.start + len(s.samples) / sample_rate, "a") for s in segments]


def peak(path):
    """Bytes that were held at most, and the recognizer."""
    recognize = Counter()
    found, (transcript,) = traced_peak(transcribe_files, [path], recognize, RATE, OPTIONS)
    assert transcript.error is None
    return found, recognize, transcript


def test_a_long_recording_takes_the_memory_of_a_short_one(tmp_path):
    """No more than a batch and what is being cut is held; 20 minutes would be 38 MB of float32."""
    short, _, _ = peak(recording(tmp_path / "short.wav", 4))
    held, recognize, transcript = peak(recording(tmp_path / "long.wav", 20))
    assert transcript.duration == pytest.approx(1200)
    assert sum(recognize.batches) > 1000
    assert max(recognize.batches) <= OPTIONS.batch_duration
    assert len(transcript.passages) > 140
    assert held < short + 2000 * len(transcript.passages)  # what was heard, and nothing of the audio
    assert held < 5 * 4 * RATE * OPTIONS.batch_duration

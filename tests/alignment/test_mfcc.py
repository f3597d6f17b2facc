import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.alignment.mfcc import Mfcc, SpeakerStatistics


def slow_mfcc(samples, bands=23, cepstra=13, low=20.0, high=7800.0, lifter=22.0):
    """The same written out frame by frame, in double precision."""
    samples = np.asarray(samples, dtype=np.float64) * 32768
    frames = math.floor(len(samples) / 160 + 0.5)
    padded = np.pad(samples, 400, mode="symmetric")
    mel = lambda f: 1127 * np.log(1 + f / 700)  # noqa: E731
    edges = np.linspace(mel(low), mel(high), bands + 2)
    static = np.zeros((frames, cepstra))
    for t in range(frames):
        begin = 400 + 160 * t
        window = padded[begin : begin + 400]
        window = window - window.mean()
        window = window - 0.97 * np.concatenate([window[:1], window[:-1]])
        window = window * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
        power = np.abs(np.fft.rfft(window, 512)) ** 2
        energies = np.zeros(bands)
        for band in range(bands):
            for k in range(257):
                m = mel(k * 16000 / 512)
                if edges[band] < m <= edges[band + 1]:
                    energies[band] += power[k] * (m - edges[band]) / (edges[band + 1] - edges[band])
                elif edges[band + 1] < m < edges[band + 2]:
                    energies[band] += power[k] * (edges[band + 2] - m) / (edges[band + 2] - edges[band + 1])
        logs = np.log(np.maximum(energies, 1.0))
        for c in range(cepstra):
            basis = np.cos(np.pi * c / bands * (np.arange(bands) + 0.5))
            scale = math.sqrt((1 if c == 0 else 2) / bands)
            static[t, c] = scale * (logs @ basis) * (1 + lifter / 2 * math.sin(math.pi * c / lifter))

    def differences(x):
        at = lambda t: x[min(max(t, 0), frames - 1)]  # noqa: E731
        return np.array([sum(n * (at(t + n) - at(t - n)) for n in (1, 2)) / 10 for t in range(frames)])

    first = differences(static)
    return np.concatenate([static, first, differences(first)], axis=1)


@pytest.mark.parametrize("length", [400, 1000, 1679, 1680, 4000])
def test_equals_the_slow_version(length):
    rng = np.random.default_rng(length)
    samples = (0.1 * rng.standard_normal(length) + 0.3 * np.sin(np.arange(length) * 0.2)).astype(np.float32)
    found = Mfcc()(torch.from_numpy(samples))
    np.testing.assert_allclose(found.numpy(), slow_mfcc(samples), atol=5e-3, rtol=1e-4)


@settings(deadline=None)
@given(st.integers(0, 3000))
def test_a_frame_per_ten_milliseconds(length):
    features = Mfcc()(torch.zeros(length))
    assert features.shape == (math.floor(length / 160 + 0.5), 39)
    assert torch.isfinite(features).all()


def test_a_click_is_in_the_frame_whose_window_it_is_in_the_middle_of():
    samples = torch.zeros(16000)
    samples[160 * 50 + 200] = 1.0  # the middle of its window
    assert int(Mfcc()(samples)[:, 0].argmax()) == 50


def test_normalization_over_utterances():
    torch.manual_seed(0)
    parts = [3 * torch.randn(50, 39) + 7, torch.randn(20, 39) - 2]
    parts[0][:, 5] = parts[1][:, 5] = 4.0
    statistics = SpeakerStatistics(39)
    for part in parts:
        statistics.add(part)
    normalized = torch.cat([statistics.normalize(part) for part in parts])
    expected = torch.cat(parts)
    expected = (expected - expected.mean(0)) / expected.std(0, correction=0)
    expected[:, 5] = 0.0
    torch.testing.assert_close(normalized, expected, atol=1e-4, rtol=1e-4)

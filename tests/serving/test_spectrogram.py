"""The spectrogram of the page shows what sounds where."""

import numpy as np
import pytest
from librosa import mel_frequencies

from nemo_speechlm.serving.spectrogram import BANDS, MOST_COLUMNS, spectrogram


def tone(hertz, seconds, rate=16000):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("hertz", [300, 1000, 4000])
def test_a_tone_is_at_its_height_for_its_time(hertz):
    samples = np.concatenate([np.zeros(8000, np.float32), tone(hertz, 1.0)])
    levels, column, top = spectrogram(samples, 16000)
    assert levels.shape == (BANDS, 150)
    assert levels.dtype == np.uint8
    assert (column, top) == (0.01, 8000)
    centres = mel_frequencies(BANDS + 2, fmin=0, fmax=8000)[1:-1]
    assert levels[:, 60:140].mean(axis=1).argmax() == np.abs(centres - hertz).argmin()
    assert levels.max() == 255
    assert levels[:, :48].max() == 0
    assert (levels.max(axis=0)[52:] > 200).all()


def test_long_recordings_have_coarser_columns():
    rate = 8000
    samples = np.concatenate([tone(500, 50, rate), np.zeros(50 * rate, np.float32)])
    levels, column, _ = spectrogram(samples, rate)
    assert levels.shape[1] <= MOST_COLUMNS
    assert levels.shape[1] * column == pytest.approx(100, abs=column)
    loud = levels.max(axis=0) > 128
    assert np.flatnonzero(loud)[-1] * column == pytest.approx(50, abs=2 * column)


def test_silence_is_dark_and_a_click_is_a_column():
    assert spectrogram(np.zeros(1000, np.float32), 16000).levels.max() == 0
    assert spectrogram(np.ones(3, np.float32), 16000).levels.shape == (BANDS, 1)

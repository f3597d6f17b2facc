"""The picture of a recording: a log-mel spectrogram small enough to be sent to a page.

Axis legend: S samples, M mel bands, F columns of the picture.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BANDS = 80
MOST_COLUMNS = 4000
"""A longer recording has coarser columns."""
_WINDOW, _STEP = 0.025, 0.01
"""Seconds."""
_RANGE = 70.0
"""Decibels below the loudest point that are still drawn."""

_QUIET = -100.0
"""Decibels of what counts as nothing: silence is not made loud."""


class Spectrogram(NamedTuple):
    """A picture.

    Attributes:
        levels: (M, F) uint8: 255 is the loudest, 0 is 70 dB below it or quieter. The lowest band is the first row.
        column: seconds of a column.
        top: the highest frequency, Hz.
    """

    levels: NDArray[np.uint8]
    column: float
    top: float


def spectrogram(samples: np.ndarray, sample_rate: int) -> Spectrogram:
    """Draw a recording.

    Args:
        samples: (S,) float32 between -1 and 1.
        sample_rate: Hz.
    """
    from librosa.filters import mel  # NeMo's dependency, loaded with it

    window, step = round(_WINDOW * sample_rate), round(_STEP * sample_rate)
    columns = max(1, -(-len(samples) // step))
    joined = -(-columns // MOST_COLUMNS)
    columns = -(-columns // joined)
    size = 1 << (window - 1).bit_length()
    padded = np.zeros((columns * joined - 1) * step + window, dtype=np.float32)
    padded[window // 2 : window // 2 + len(samples)] = samples[: len(padded) - window // 2]
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::step]
    weights = mel(sr=sample_rate, n_fft=size, n_mels=BANDS)
    taper = np.hanning(window).astype(np.float32)
    power = np.empty((BANDS, columns), dtype=np.float32)
    for first in range(0, columns, 500):  # so that memory does not grow with the recording
        part = frames[first * joined : (first + 500) * joined] * taper
        bands = weights @ np.square(np.abs(np.fft.rfft(part, size))).T
        power[:, first : first + 500] = bands.reshape(BANDS, -1, joined).mean(axis=2)
    decibels = 10 * np.log10(np.maximum(power, 10 ** (_QUIET / 10)))
    levels = np.clip(1 + (decibels - max(decibels.max(), _QUIET + _RANGE)) / _RANGE, 0, 1)
    return Spectrogram(np.rint(levels * 255).astype(np.uint8), joined * step / sample_rate, sample_rate / 2)

"""Mel cepstra with their first and second differences, and their normalization per speaker.

Axes: T frames, C cepstra, D = 3 C features.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SAMPLE_RATE = 16000
"""Of the audio that features are made of, in Hz."""
FRAME_RATE = 100
"""Frames a second."""

_HOP = SAMPLE_RATE // FRAME_RATE
_WINDOW = 400
_FFT = 512
_DELTA_REACH = 2
_VARIANCE_FLOOR = 1e-3


@dataclass(frozen=True)
class Mfcc:
    """Mel-frequency cepstra as Kaldi makes them, in frames of 25 ms every 10 ms, with both differences.

    The window of frame ``t`` begins at ``10 t`` ms, as in Kaldi and pocketsphinx, and frame ``t`` speaks for the
    samples from ``160 t`` to ``160 (t + 1)``. (With windows centred there, aligned phones began 7 ms too late on
    the average against the exact times of festival's voices.) The signal is mirrored at its end, so S samples have
    ``round(S / 160)`` frames (halves up).

    Args:
        bands: triangular mel bands.
        cepstra: coefficients that are kept, the zeroth among them.
        low: where the lowest band begins, in Hz.
        high: where the highest band ends, in Hz.
        lifter: of the cepstra, as in HTK.
    """

    bands: int = 23
    cepstra: int = 13
    low: float = 20.0
    high: float = 7800.0
    lifter: float = 22.0

    @property
    def size(self) -> int:
        """D: features of a frame."""
        return 3 * self.cepstra

    @cached_property
    def _window(self) -> Tensor:
        return torch.hann_window(_WINDOW, periodic=False) ** 0.85  # Povey's: like Hamming's, but 0 at its ends

    @cached_property
    def _filters(self) -> Tensor:
        """Weights (bins, bands)."""
        mel = _mel(torch.arange(_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / _FFT)[:, None]
        low, high = _mel(torch.tensor([self.low, self.high], dtype=torch.float64))
        edges = torch.linspace(float(low), float(high), self.bands + 2, dtype=torch.float64)
        left, middle, right = edges[:-2], edges[1:-1], edges[2:]
        rising, falling = (mel - left) / (middle - left), (right - mel) / (right - middle)
        return torch.minimum(rising, falling).clamp(min=0).float()

    @cached_property
    def _transform(self) -> Tensor:
        """Orthonormal cosine transform with the lifter in it (bands, C)."""
        band = torch.arange(self.bands, dtype=torch.float64)[:, None] + 0.5
        order = torch.arange(self.cepstra, dtype=torch.float64)
        cosines = torch.cos(math.pi / self.bands * band * order) * math.sqrt(2 / self.bands)
        cosines[:, 0] /= math.sqrt(2)
        lift = 1 + self.lifter / 2 * torch.sin(math.pi * order / self.lifter)
        return (cosines * lift).float()

    def __call__(self, samples: Tensor) -> Tensor:
        """Features (T, D), not normalized, of a signal (S,) between -1 and 1 at 16 kHz; T may be 0."""
        frames = math.floor(len(samples) / _HOP + 0.5)
        if not frames:
            return samples.new_zeros(0, self.size)
        windows = _mirrored(samples * 32768.0, frames).unfold(0, _WINDOW, _HOP)
        windows = windows - windows.mean(1, keepdim=True)
        emphasized = windows - 0.97 * torch.cat([windows[:, :1], windows[:, :-1]], dim=1)
        power = torch.fft.rfft(emphasized * self._window.to(samples.device), _FFT).abs() ** 2
        mel = (power @ self._filters.to(samples.device)).clamp(min=1.0).log()  # 1: a 16-bit signal's rounding
        cepstra = mel @ self._transform.to(samples.device)
        first = _differences(cepstra)
        return torch.cat([cepstra, first, _differences(first)], dim=1)


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hertz / 700.0)


def _mirrored(samples: Tensor, frames: int) -> Tensor:
    """The signal to the last window's end."""
    index = torch.arange((frames - 1) * _HOP + _WINDOW, device=samples.device)
    period = 2 * len(samples)
    index = index % period  # mirrored again and again, for signals shorter than a window
    return samples[torch.where(index < len(samples), index, period - 1 - index)]


def _differences(features: Tensor) -> Tensor:
    """Slope (T, C) of the line through each frame and its two neighbours on each side; ends are repeated."""
    padded = torch.cat([features[:1]] * _DELTA_REACH + [features] + [features[-1:]] * _DELTA_REACH)
    frames, middle = len(features), _DELTA_REACH
    total = torch.zeros_like(features)
    for reach in range(1, _DELTA_REACH + 1):
        ahead, behind = padded[middle + reach :][:frames], padded[middle - reach :][:frames]
        total += reach * (ahead - behind)
    return total / (2 * sum(reach**2 for reach in range(1, _DELTA_REACH + 1)))


@dataclass
class SpeakerStatistics:
    """Sums of a speaker's features, from which they are normalized to mean 0 and variance 1.

    >>> statistics = SpeakerStatistics(2)
    >>> statistics.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    >>> statistics.normalize(torch.tensor([[1.0, 2.0]]))
    tensor([[-1.,  0.]])
    """

    size: int

    def __post_init__(self) -> None:
        self.frames = 0
        self._sum = torch.zeros(self.size, dtype=torch.float64)
        self._squares = torch.zeros(self.size, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Count in features (T, D)."""
        features = features.detach().to("cpu", torch.float64)
        self.frames += len(features)
        self._sum += features.sum(0)
        self._squares += features.square().sum(0)

    def normalize(self, features: Tensor) -> Tensor:
        """Normalized features (T, D); what never varies becomes 0."""
        mean = self._sum / max(self.frames, 1)
        variance = self._squares / max(self.frames, 1) - mean.square()
        scale = variance.clamp(min=_VARIANCE_FLOOR).rsqrt()
        return (features - mean.to(features)) * scale.to(features)

"""Preprocessing of raw audio for a front end."""

import math

import torch
from nemo.core.classes import NeuralModule, typecheck
from nemo.core.neural_types import AudioSignal, LengthsType, NeuralType
from torch import Tensor

from nemo_speechlm.modules.padding import padding_mask


class WaveformPreprocessor(NeuralModule):
    """Passes the waveform on as one channel; takes the place of a mel preprocessor in front of a convolution stack.

    Args:
        normalize: scale each utterance to zero mean and unit variance (the Large models and most wav2vec 2.0
            checkpoints want that). Padding is left out of the statistics and stays zero.
        sample_rate: Hz.
        window_stride: seconds from one sample to the next, where a config says them: NeMo's transducers tell times by
            this key.

    Raises:
        ValueError: if ``window_stride`` is another.
    """

    def __init__(self, normalize: bool = False, sample_rate: int = 16000, window_stride: float | None = None):
        super().__init__()
        if window_stride is not None and not math.isclose(window_stride * sample_rate, 1.0):
            raise ValueError(f"preprocessor.window_stride is {window_stride}, expected 1 / sample_rate (or none)")
        self.normalize = normalize
        self.sample_rate = sample_rate
        self._sample_rate = sample_rate  # NeMo's models look for it under this name

    @property
    def input_rate(self) -> float:
        """Steps per second of what comes out."""
        return float(self.sample_rate)

    @property
    def input_types(self) -> dict[str, NeuralType]:
        """Waveforms."""
        return {
            "input_signal": NeuralType(("B", "T"), AudioSignal(freq=self.sample_rate)),
            "length": NeuralType(tuple("B"), LengthsType()),
        }

    @property
    def output_types(self) -> dict[str, NeuralType]:
        """Waveforms with a channel axis."""
        return {
            "processed_signal": NeuralType(("B", "D", "T"), AudioSignal(freq=self.sample_rate)),
            "processed_length": NeuralType(tuple("B"), LengthsType()),
        }

    @typecheck()
    @torch.no_grad()
    def forward(self, input_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, S) and their lengths (B,) in samples -> (B, 1, S) and the same lengths."""
        if self.normalize:
            input_signal = normalize_waveform(input_signal, length)
        return input_signal.unsqueeze(1), length


def normalize_waveform(audio: Tensor, length: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Scale each row of (B, S) to zero mean and unit (biased) variance over its first ``length`` samples."""
    inside = ~padding_mask(length, audio.shape[1])
    count = length.clamp(min=1).unsqueeze(1)
    mean = (audio * inside).sum(1, keepdim=True) / count
    centered = (audio - mean) * inside
    variance = centered.square().sum(1, keepdim=True) / count
    return centered * torch.rsqrt(variance + epsilon)

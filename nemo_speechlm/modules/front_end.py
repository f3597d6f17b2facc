"""Front ends: from a waveform or mel features to frames.

A front end is called with (B, C, T) and lengths (B,), and returns features (B, T', D) with their lengths. Its
``subsampling`` says how many input steps make a frame, its ``output_dim`` what D is.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nemo_speechlm.kernels.convolution import Window, first_layers, gelu_convolution, normalized_weights, windows
from nemo_speechlm.kernels.cpu import is_fast
from nemo_speechlm.modules.padding import padding_mask

WAV2VEC2_LAYERS = ((512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 2, 2), (512, 2, 2))
"""(channels, kernel, stride) of wav2vec 2.0's convolutions: a frame of 400 samples every 320."""


class ConvFrontEnd(NeuralModule):
    """The convolution stack of wav2vec 2.0 (arXiv 2006.11477, section 2).

    Args:
        layers: (channels, kernel, stride) of each convolution.
        norm: ``"group"``: one group per channel, on the first layer only (Base); ``"layer"``: layer norm on each
            (Large).
        bias: whether the convolutions have one.
        gradient_scale: factor on the gradient that reaches the stack (Base: 0.1).
        checkpoint: keep only what stands between the layers for the gradient, and compute each layer's inside again;
            saves memory for time. On a CPU the layers do so anyway where they can.
        released_padding: the released code's two habits. Its group norm counts padding in its statistics, so that an
            utterance's features depend on the batch it is in; and it cuts the padded samples into T equal chunks and
            keeps a frame unless its whole chunk is padding, so that an utterance may own one frame more in a batch
            than alone. Ours: statistics over an utterance's own samples, and the frames that its samples fill.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[int]] = WAV2VEC2_LAYERS,
        norm: Literal["group", "layer"] = "group",
        bias: bool = False,
        gradient_scale: float = 1.0,
        released_padding: bool = False,
        checkpoint: bool = False,
    ):
        super().__init__()
        if norm not in ("group", "layer"):
            raise ValueError(f"ConvFrontEnd: norm is {norm!r}, expected 'group' or 'layer'")
        self.layers = [tuple(layer) for layer in layers]
        self.gradient_scale = gradient_scale
        self.released_padding = released_padding
        self.checkpoint = checkpoint
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        channels_in = 1
        self.subsampling = 1
        for channels, kernel, stride in layers:
            conv = nn.Conv1d(channels_in, channels, kernel, stride=stride, bias=bias)
            nn.init.kaiming_normal_(conv.weight)
            self.convs.append(conv)
            if norm == "layer":
                self.norms.append(ChannelLayerNorm(channels))
            elif channels_in == 1:
                self.norms.append(MaskedInstanceNorm(channels))
            else:
                self.norms.append(nn.Identity())
            self.subsampling *= stride
            channels_in = int(channels)
        self.output_dim = channels_in

    def forward(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms (B, 1, S) -> features (B, T, C), frames (B,)."""
        samples, audio_signal = length, audio_signal.to(cast(nn.Conv1d, self.convs[0]).weight.dtype)
        if self._by_kernels(audio_signal):
            x_BTC, length = self._in_chunks(audio_signal, length)
        else:
            x_BTC, length = self._layer_by_layer(audio_signal, length)
        if self.gradient_scale != 1.0 and x_BTC.requires_grad:
            x_BTC = _ScaleGradient.apply(x_BTC, self.gradient_scale)
        if self.released_padding:
            length = released_lengths(samples, audio_signal.shape[2], x_BTC.shape[1])
        return x_BTC, length.clamp(min=0, max=x_BTC.shape[1])

    def _layer_by_layer(self, x_BCT: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        for conv, norm, (_, kernel, stride) in zip(self.convs, self.norms, self.layers, strict=True):
            length = torch.div(length - kernel, stride, rounding_mode="floor") + 1
            inside = None if self.released_padding else length.clamp(min=1)
            if self.checkpoint and torch.is_grad_enabled():
                x_BCT = checkpoint(_layer, conv, norm, x_BCT, inside, use_reentrant=False)
            else:
                x_BCT = _layer(conv, norm, x_BCT, inside)
        return x_BCT.transpose(1, 2), length

    def _by_kernels(self, audio_signal: Tensor) -> bool:
        norm = self.norms[0]
        return (
            isinstance(norm, MaskedInstanceNorm)
            and len(self.convs) > 1
            and audio_signal.shape[1] == 1
            and not audio_signal.requires_grad
            and self.convs[1].bias is None
            and is_fast(audio_signal, norm.weight, *(conv.weight for conv in self.convs))
        )

    def _in_chunks(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`_layer_by_layer` does, for group norm on a CPU: see :mod:`nemo_speechlm.kernels.convolution`."""
        shapes = [Window(kernel, stride) for _, kernel, stride in self.layers]
        lengths = [length]
        for window in shapes:
            lengths.append(torch.div(lengths[-1] - window.kernel, window.stride, rounding_mode="floor") + 1)
        samples_BTK = windows(audio_signal[:, 0], shapes[0])
        num_frames = samples_BTK.shape[1]
        inside, norm, first = None, cast(MaskedInstanceNorm, self.norms[0]), cast(nn.Conv1d, self.convs[0])
        second, *others = (cast(Tensor, conv.weight) for conv in self.convs[1:])
        if not self.released_padding and bool((lengths[1] < num_frames).any()):
            inside = ~padding_mask(lengths[1].clamp(min=1), num_frames)
        weights = normalized_weights(samples_BTK, first.weight[:, 0], norm.weight, norm.bias, norm.epsilon, inside)
        x_BTC = first_layers(samples_BTK, *weights, second, shapes[1])
        for weight, window in zip(others, shapes[2:], strict=True):
            x_BTC = gelu_convolution(x_BTC, weight, window)
        return F.gelu(x_BTC), lengths[-1]


def _layer(conv: nn.Module, norm: nn.Module, x_BCT: Tensor, length: Tensor | None) -> Tensor:
    x_BCT = conv(x_BCT)
    return F.gelu(norm(x_BCT, length) if isinstance(norm, MaskedInstanceNorm) else norm(x_BCT))


def released_lengths(samples: Tensor, num_samples: int, num_frames: int) -> Tensor:
    """Frames (B,) of utterances of so many ``samples`` (B,) in a padded batch, as the released code counts them.

    It cuts the ``num_samples`` of the batch into ``num_frames`` equal chunks and keeps those not wholly padding.
    """
    chunk = num_samples // num_frames
    return torch.div(samples + chunk - 1, chunk, rounding_mode="floor").clamp(max=num_frames)


class MelFrontEnd(NeuralModule):
    """One of NeMo's subsampling modules over mel features.

    Args:
        subsampling: the module, such as ``nemo.collections.asr.parts.submodules.subsampling.ConvSubsampling``: called
            with (B, T, F) and lengths, it returns (B, T', D) and lengths.
        subsampling_factor: mel frames per frame.
        output_dim: D.
        gradient_scale: factor on the gradient that reaches the module.
    """

    def __init__(self, subsampling: nn.Module, subsampling_factor: int, output_dim: int, gradient_scale: float = 1.0):
        super().__init__()
        self.module = subsampling
        self.subsampling = subsampling_factor
        self.output_dim = output_dim
        self.gradient_scale = gradient_scale

    def forward(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Mel features (B, F, T) -> features (B, T', D), frames (B,)."""
        x_BTD, length = self.module(audio_signal.transpose(1, 2), length)
        if self.gradient_scale != 1.0 and x_BTD.requires_grad:
            x_BTD = _ScaleGradient.apply(x_BTD, self.gradient_scale)
        return x_BTD, length.clamp(min=0, max=x_BTD.shape[1]).long()


class MaskedInstanceNorm(nn.Module):
    """Group norm with one group per channel, whose statistics leave padding out."""

    def __init__(self, channels: int, epsilon: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, x_BCT: Tensor, length: Tensor | None) -> Tensor:
        """Normalize (B, C, T) over each row's first ``length`` (B,) frames, or over all of them where it is None."""
        if length is None or not _any_padding(length, x_BCT.shape[2]):
            weight, bias = self.weight.float(), self.bias.float()
            return F.group_norm(x_BCT.float(), len(weight), weight, bias, self.epsilon).type_as(x_BCT)
        inside = (~padding_mask(length, x_BCT.shape[2])).unsqueeze(1)
        x = x_BCT.float()
        count = length.view(-1, 1, 1)
        mean = (x * inside).sum(2, keepdim=True) / count
        variance = ((x - mean) * inside).square().sum(2, keepdim=True) / count
        x = (x - mean) * torch.rsqrt(variance + self.epsilon)
        return (x * self.weight.view(-1, 1) + self.bias.view(-1, 1)).type_as(x_BCT)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, T), in fp32."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Normalize each frame."""
        weight, bias = self.weight.float(), self.bias.float()
        x = F.layer_norm(x_BCT.transpose(1, 2).float(), self.normalized_shape, weight, bias, self.eps)
        return x.transpose(1, 2).type_as(x_BCT)


def _any_padding(length: Tensor, num_frames: int) -> bool:
    # Worth asking only where it costs no device synchronization.
    return length.is_cuda or bool((length < num_frames).any())


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None

"""The first convolutions of wav2vec 2.0, with their group norm and GELUs, frame by frame and in one pass.

Three things make them fast and small on a CPU:

- The group norm (a group per channel) of a linear map of the samples needs no pass over what it normalizes: mean and
  variance of ``w . x`` over time are ``w . mean(x)`` and ``w^T Cov(x) w``, and a window has ten samples. So norm and
  convolution are one convolution whose weights differ between utterances (:func:`normalized_weights`).
- Layers are computed a chunk of frames at a time, such that what stands between two convolutions, 260 MB behind the
  first in a batch of 4 x 10 s, stays in the cache and is made anew for the gradient.
- Frames lie one after another, channels side by side: there, gradients of weights are matrix products without a copy.

Axis legend: B utterances, T frames, S samples, I and O channels, K width of the kernel.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nemo_speechlm.kernels.cpu import product_weight_gradient

CHUNK = 2000
"""Output frames computed at a time."""


class Window(NamedTuple):
    """A convolution's kernel and stride, in frames."""

    kernel: int
    stride: int

    def frames(self, inputs: int) -> int:
        """Output frames of so many inputs."""
        return (inputs - self.kernel) // self.stride + 1


def windows(audio_BS: Tensor, window: Window) -> Tensor:
    """The samples under each position of the first kernel: a view (B, T, K) of (B, S)."""
    return audio_BS.unfold(1, window.kernel, window.stride)


def normalized_weights(
    samples_BTK: Tensor,
    weight_OK: Tensor,
    gain_O: Tensor,
    bias_O: Tensor,
    epsilon: float,
    inside_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weights (B, O, K) and biases (B, O) of a convolution that is convolution and group norm in one.

    Args:
        samples_BTK: see :func:`windows`.
        weight_OK: of the convolution; a bias of its own would be taken away by the norm.
        gain_O: of the norm.
        bias_O: of the norm.
        epsilon: of the norm.
        inside_BT: frames that count in the statistics; all of them where it is None.
    """
    with torch.no_grad():  # audio needs no gradient
        x = samples_BTK.double()
        if inside_BT is None:
            count = torch.full((len(x), 1, 1), float(x.shape[1]), dtype=x.dtype, device=x.device)
        else:
            count = inside_BT.sum(1).clamp(min=1).to(x.dtype).view(-1, 1, 1)
            x = x * inside_BT.unsqueeze(2)
        mean = x.sum(1, keepdim=True) / count
        # Squares of samples lie far above their means' in sound; fp64 has digits to spare for what is left.
        covariance = x.transpose(1, 2) @ x / count - mean.transpose(1, 2) @ mean
    weight = weight_OK.double()
    variance = ((weight @ covariance) * weight).sum(2).clamp(min=0)
    scale_BO = gain_O * torch.rsqrt(variance + epsilon)
    scaled = scale_BO.unsqueeze(2) * weight
    return scaled.type_as(weight_OK), (bias_O - (scaled * mean).sum(2)).type_as(weight_OK)


def first_layers(
    samples_BTK: Tensor, weights_BOK: Tensor, biases_BO: Tensor, second_OIK: Tensor, window: Window
) -> Tensor:
    """The first convolution by :func:`normalized_weights`, a GELU, and the second convolution, without its GELU.

    Args:
        samples_BTK: see :func:`windows`; gets no gradient.
        weights_BOK: of the first convolution, for each utterance.
        biases_BO: of the first convolution.
        second_OIK: weights of the second.
        window: of the second.

    Returns:
        (B, T', O).
    """
    return _FirstLayers.apply(samples_BTK, weights_BOK, biases_BO, second_OIK, window)


def gelu_convolution(x_BTI: Tensor, weight_OIK: Tensor, window: Window) -> Tensor:
    """A GELU and a convolution: (B, T, I) -> (B, T', O). The GELU's output is not kept for the gradient."""
    return _GeluConvolution.apply(x_BTI, weight_OIK, window)


class _Kernel:
    """A convolution's weights in the layouts that its products want."""

    def __init__(self, weight_OIK: Tensor, window: Window):
        self.window = window
        self.image = weight_OIK.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self.num_out, self.num_in, _ = weight_OIK.shape

    def __call__(self, x_TI: Tensor) -> Tensor:
        """(T, I) -> (T', O)."""
        y = torch.conv2d(_image(x_TI), self.image, None, (1, self.window.stride))
        return y.permute(0, 2, 3, 1).reshape(-1, self.num_out)

    def input_gradient(self, gradient_TO: Tensor, x_TI: Tensor) -> Tensor:
        """(T', O) -> (T, I)."""
        gradient = torch.ops.aten.convolution_backward(
            _image(gradient_TO), _image(x_TI), self.image, None,
            [1, self.window.stride], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False],
        )[0]  # fmt: skip
        return gradient.permute(0, 2, 3, 1).reshape(-1, self.num_in)

    def add_weight_gradient(self, total_OKI: Tensor, gradient_TO: Tensor, x_TI: Tensor) -> None:
        """Add the gradient of the weights, (O, K, I) as (O, K * I), to ``total``."""
        kernel, stride = self.window
        num_frames, width = len(gradient_TO), self.num_in
        x_TI = x_TI.contiguous()
        # As many taps at once as lie in rows that do not overlap: a matrix product can read no others in place.
        for first in range(0, kernel, stride):
            taps = min(stride, kernel - first)
            start = x_TI.storage_offset() + first * width
            rows = x_TI.as_strided((num_frames, taps * width), (stride * width, 1), start)
            total_OKI[:, first * width : (first + taps) * width] += product_weight_gradient(gradient_TO, rows)

    def weight_gradient(self, total_OKI: Tensor) -> Tensor:
        """What was added, as (O, I, K)."""
        return total_OKI.view(self.num_out, -1, self.num_in).transpose(1, 2)

    def empty_weight_gradient(self) -> Tensor:
        """Zeros to add to."""
        return self.image.new_zeros(self.num_out, self.window.kernel * self.num_in)


def _image(x_TC: Tensor) -> Tensor:
    return x_TC[None, None].permute(0, 3, 1, 2)


def _chunks(num_frames: int, window: Window) -> list[tuple[slice, slice]]:
    """Slices of the output's frames, and of the input's that they are made of."""
    pieces = []
    for start in range(0, num_frames, CHUNK):
        end = min(start + CHUNK, num_frames)
        pieces.append((slice(start, end), slice(start * window.stride, (end - 1) * window.stride + window.kernel)))
    return pieces


class _GeluConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTI: Tensor, weight: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(x_BTI, weight)
        ctx.window = window
        kernel = _Kernel(weight, window)
        out = x_BTI.new_empty(len(x_BTI), window.frames(x_BTI.shape[1]), len(weight))
        for x, y in zip(x_BTI, out, strict=True):
            for outputs, inputs in _chunks(len(y), window):
                y[outputs] = kernel(F.gelu(x[inputs]))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BTO: Tensor) -> tuple[Tensor | None, ...]:
        x_BTI, weight = ctx.saved_tensors
        window = ctx.window
        kernel = _Kernel(weight, window)
        of_x = torch.zeros_like(x_BTI) if ctx.needs_input_grad[0] else None
        of_weight = kernel.empty_weight_gradient() if ctx.needs_input_grad[1] else None
        for row, gradient_TO in enumerate(gradient_BTO.contiguous()):
            for outputs, inputs in _chunks(len(gradient_TO), window):
                x, gradient = x_BTI[row, inputs], gradient_TO[outputs]
                activated = F.gelu(x)
                if of_weight is not None:
                    kernel.add_weight_gradient(of_weight, gradient, activated)
                if of_x is not None:
                    of_activated = kernel.input_gradient(gradient, activated)
                    of_x[row, inputs] += torch.ops.aten.gelu_backward(of_activated, x)
        return of_x, None if of_weight is None else kernel.weight_gradient(of_weight), None


class _FirstLayers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: Tensor, weights: Tensor, biases: Tensor, second: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(samples, weights, biases, second)
        ctx.window = window
        kernel = _Kernel(second, window)
        out = weights.new_empty(len(samples), window.frames(samples.shape[1]), len(second))
        for x, y, weight, bias in zip(samples, out, weights, biases, strict=True):
            for outputs, inputs in _chunks(len(y), window):
                y[outputs] = kernel(torch.ops.aten.gelu_(torch.addmm(bias, x[inputs].contiguous(), weight.t())))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BTO: Tensor) -> tuple[Tensor | None, ...]:
        samples, weights, biases, second = ctx.saved_tensors
        window = ctx.window
        kernel = _Kernel(second, window)
        of_second = kernel.empty_weight_gradient() if ctx.needs_input_grad[3] else None
        of_first = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        of_weights, of_biases = torch.zeros_like(weights), torch.zeros_like(biases)
        for row, gradient_TO in enumerate(gradient_BTO.contiguous()):
            for outputs, inputs in _chunks(len(gradient_TO), window):
                x, gradient = samples[row, inputs].contiguous(), gradient_TO[outputs]
                inner = torch.addmm(biases[row], x, weights[row].t())
                activated = F.gelu(inner)
                if of_second is not None:
                    kernel.add_weight_gradient(of_second, gradient, activated)
                if of_first:
                    of_inner = kernel.input_gradient(gradient, activated)
                    torch.ops.aten.gelu_backward.grad_input(of_inner, inner, grad_input=of_inner)
                    of_weights[row].addmm_(of_inner.t(), x)
                    of_biases[row] += of_inner.sum(0)
        return None, of_weights, of_biases, None if of_second is None else kernel.weight_gradient(of_second), None

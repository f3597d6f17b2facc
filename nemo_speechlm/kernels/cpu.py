"""Whether to take the CPU's own way, and its matrix products.

On a CPU, fp32 products with weights run through oneDNN's convolution of kernel 1, which is 15 to 25% faster than MKL's
``sgemm`` on AMD's processors and no slower on Intel's; gradients of weights stay with MKL, which is ahead there.

Axis legend: N rows, I inputs, O outputs.
"""

import torch
from torch import Tensor

FEW_ROWS = 64
"""Below so many, reordering the weights for oneDNN costs more than it saves."""


def is_fast(*tensors: Tensor | None) -> bool:
    """Whether all these are plain fp32 tensors on a CPU that oneDNN serves, computed now and not traced."""
    if not torch.backends.mkldnn.is_available() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch.is_autocast_enabled("cpu") or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return all(t is None or (t.device.type == "cpu" and t.dtype == torch.float32) for t in tensors)


def product(x_NI: Tensor, weight_OI: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` of contiguous (N, I) and (O, I)."""
    if len(x_NI) < FEW_ROWS:
        return torch.nn.functional.linear(x_NI, weight_OI, bias)
    return _rows(torch.conv2d(_image(x_NI), weight_OI[:, :, None, None], bias))


def product_gradient(gradient_NO: Tensor, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """The gradient of :func:`product` for its input: ``gradient @ weight``."""
    if len(gradient_NO) < FEW_ROWS:
        return gradient_NO @ weight_OI
    return _rows(
        torch.ops.aten.convolution_backward(
            _image(gradient_NO), _image(x_NI), weight_OI[:, :, None, None], None,
            [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, False, False],
        )[0]
    )  # fmt: skip


def _image(x_NI: Tensor) -> Tensor:
    """(N, I) as an image (1, I, 1, N) whose channels lie side by side."""
    return x_NI[None, None].permute(0, 3, 1, 2)


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(x.shape[3], x.shape[1])

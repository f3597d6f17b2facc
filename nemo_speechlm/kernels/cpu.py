"""Whether to take the CPU's own way, and its matrix products.

On a CPU, fp32 products with weights run through oneDNN's inner product, which is faster than MKL's ``sgemm`` on AMD's
processors (15 to 25% where 512 bits take two steps, twice as fast where they take one) and no slower on Intel's. It is
the operator that torch.compile's inductor calls; ``torch.nn.functional.linear`` has no way to it.
Gradients of weights go to MKL or to oneDNN, whichever is ahead on the processor.

Axis legend: N rows, I inputs, O outputs.
"""

import logging
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_PRIVATE = {
    "mkldnn::_linear_pointwise": ("X", "W", "B", "attr", "scalars", "algorithm"),
    "mkldnn::_reorder_linear_weight": ("self", "batch_size"),
}
"""Operators that PyTorch promises nobody, with their arguments."""

FEW_ROWS = 64
"""Below so many, reordering the weights for oneDNN costs more than it saves."""


def is_fast(*tensors: Tensor | None) -> bool:
    """Whether all these are plain fp32 tensors on a CPU that oneDNN serves, computed now and not traced."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.backends.mkldnn.is_available():
        return False
    if not _has_private_operators() or torch.is_autocast_enabled("cpu"):
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return all(t is None or (t.device.type == "cpu" and t.dtype == torch.float32) for t in tensors)


def is_fast_mixed(*tensors: Tensor | None) -> bool:
    """Whether these are tensors of a training on a CPU under autocast to bfloat16, computed now and not traced.

    Products are PyTorch's there. What is not a product keeps the CPU's own way: for attention, bfloat16 is slower.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.is_autocast_enabled("cpu"):
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return torch.get_autocast_dtype("cpu") == torch.bfloat16 and all(
        t is None or (t.device.type == "cpu" and t.dtype in (torch.float32, torch.bfloat16)) for t in tensors
    )


def full_precision() -> torch.autocast:
    """A context in which a CPU computes in fp32 in spite of autocast.

    For convolutions and attention, whose gradients are slow in bfloat16.
    """
    return torch.autocast("cpu", enabled=False)


@cache
def _has_private_operators() -> bool:
    """Whether this PyTorch has what the CPU's own way calls, as it was; says once if it has not."""
    lacking = [name for name, arguments in _PRIVATE.items() if _arguments(name) != arguments]
    if not hasattr(torch._C._functorch, "peek_interpreter_stack"):
        lacking.append("torch._C._functorch.peek_interpreter_stack")
    if lacking:
        logging.getLogger(__name__).warning(
            f"PyTorch {torch.__version__} lacks {', '.join(lacking)}, or it takes other arguments: CPUs compute with "
            "PyTorch's own functions, which are slower"
        )
    return not lacking


def _arguments(operator: str) -> tuple[str, ...] | None:
    """What an operator is called with; None where there is none of this name."""
    namespace, _, name = operator.partition("::")
    try:
        schema = getattr(getattr(torch.ops, namespace), name).default._schema
    except AttributeError:
        return None
    return tuple(argument.name for argument in schema.arguments)


def product(x_NI: Tensor, weight_OI: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` of (N, I) and (O, I)."""
    if len(x_NI) < FEW_ROWS:
        return torch.nn.functional.linear(x_NI, weight_OI, bias)
    return torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias, "none", [], "")


def product_gradient(gradient_NO: Tensor, weight_OI: Tensor) -> Tensor:
    """The gradient of :func:`product` for its input: ``gradient @ weight``."""
    return product(gradient_NO, weight_OI.t())


def product_weight_gradient(gradient_NO: Tensor, x_NI: Tensor) -> Tensor:
    """The gradient of :func:`product` for its weights: ``gradient.T @ x``, (O, I)."""
    if len(x_NI) < FEW_ROWS or not _onednn_makes_weight_gradients():
        return gradient_NO.t() @ x_NI
    if torch.get_num_threads() == 1:  # PyTorch then keeps convolutions of kernel 1 from oneDNN
        return product(gradient_NO.t().contiguous(), x_NI.t().contiguous())
    weight = gradient_NO.new_empty(1).expand(gradient_NO.shape[1], x_NI.shape[1], 1, 1)  # its values are not read
    return torch.ops.aten.convolution_backward(
        _image(gradient_NO), _image(x_NI), weight, None,
        [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False],
    )[1][:, :, 0, 0]  # fmt: skip


@cache
def _onednn_makes_weight_gradients() -> bool:
    """Whether this is an AMD processor of family 26 (Zen 5) or later: 512 bits in one step, of which MKL makes no use.

    There oneDNN takes half of MKL's time; before, MKL is ahead. To time both would be noise where the machine is busy,
    and runs would differ in their last digits.
    """
    about = _processor()
    family = about.get("cpu family", "")
    return about.get("vendor_id") == "AuthenticAMD" and family.isdigit() and int(family) >= 26


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16; without, they are slower than fp32."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_processor().get("flags", "").split())


@cache
def _processor() -> dict[str, str]:
    """What Linux says of the last processor; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, found, value in (line.partition(":") for line in lines) if found}


def _image(x_NI: Tensor) -> Tensor:
    """(N, I) as an image (1, I, 1, N) whose channels lie side by side."""
    return x_NI[None, None].permute(0, 3, 1, 2)

"""Which version of a kernel runs: PyTorch's or Triton's."""

import os
from collections.abc import Callable
from typing import Literal, TypeVar

from torch import Tensor

Backend = Literal["auto", "triton", "torch"]

BACKEND_VARIABLE = "NEMO_SPEECHLM_KERNELS"
"""Environment variable that says which version runs where a call says ``auto``."""

Kernel = TypeVar("Kernel", bound=Callable)


def choose_kernel(backend: str, tensor: Tensor, plain: Kernel, triton: Callable[[], Kernel | None]) -> Kernel:
    """The version of a kernel that a call runs.

    Args:
        backend: ``"triton"``, ``"torch"``, or ``"auto"``: what ``NEMO_SPEECHLM_KERNELS`` says, else Triton for CUDA
            tensors where it is installed, and PyTorch for others.
        tensor: that is worked on.
        plain: PyTorch's version.
        triton: imports Triton's version, None where Triton is not installed; called only where it may run.

    Raises:
        ValueError: if there is no such backend, or Triton is not installed.
    """
    if backend == "auto":
        backend = os.environ.get(BACKEND_VARIABLE, "auto")
    if backend == "auto":
        return (triton() if tensor.is_cuda else None) or plain
    if backend == "torch":
        return plain
    if backend != "triton":
        raise ValueError(f"the kernels' backend is {backend!r}, expected auto, triton or torch")
    if (kernel := triton()) is None:
        raise ValueError("the kernels' backend is triton, which is not installed: pip install triton")
    return kernel

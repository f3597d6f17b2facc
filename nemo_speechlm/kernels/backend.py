"""Which version of a kernel runs: PyTorch's or Triton's."""

import os
from collections.abc import Callable
from typing import Literal

from torch import Tensor

Backend = Literal["auto", "triton", "torch"]

BACKEND_VARIABLE = "NEMO_SPEECHLM_KERNELS"
"""Environment variable that says which version runs where a call says ``auto``."""


def uses_triton(backend: str, tensor: Tensor, is_there: Callable[[], bool]) -> bool:
    """Whether a call runs Triton's version.

    Args:
        backend: ``"triton"``, ``"torch"``, or ``"auto"``: what ``NEMO_SPEECHLM_KERNELS`` says, else Triton for CUDA
            tensors where it is installed, and PyTorch for others.
        tensor: that is worked on.
        is_there: tells whether Triton's version can be imported.

    Raises:
        ValueError: if there is no such backend, or Triton is not installed.
    """
    if backend == "auto":
        backend = os.environ.get(BACKEND_VARIABLE, "auto")
    if backend == "auto":
        return tensor.is_cuda and is_there()
    if backend not in ("triton", "torch"):
        raise ValueError(f"the kernels' backend is {backend!r}, expected auto, triton or torch")
    if backend == "triton" and not is_there():
        raise ValueError("the kernels' backend is triton, which is not installed: pip install triton")
    return backend == "triton"

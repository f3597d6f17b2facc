"""What masking, swapping and padding do to the states, in one pass: a PyTorch version, and the switch to Triton's.

Axis legend: B utterances, T frames, D width, V units.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemo_speechlm.kernels.backend import BACKEND_VARIABLE, Backend, choose_kernel
from nemo_speechlm.kernels.cpu import is_fast

__all__ = ["BACKEND_VARIABLE", "Backend", "mix_states", "mix_states_torch"]


def mix_states(
    states_BTD: Tensor,
    mask_BT: Tensor | None = None,
    mask_vector_D: Tensor | None = None,
    swap_BT: Tensor | None = None,
    units_BT: Tensor | None = None,
    embedding_VD: Tensor | None = None,
    padding_BT: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Replace frames: padded ones by zeros, masked ones by a vector, swapped ones by the embedding of their unit.

    Where a frame is more than one of these, the first in this order counts. All others stay.

    Args:
        states_BTD: (B, T, D), of the dtype of the result.
        mask_BT: bool; with ``mask_vector_D``, or both None.
        mask_vector_D: what masked frames become.
        swap_BT: bool; with ``units_BT`` and ``embedding_VD``, or all None.
        units_BT: integers; read only where frames are swapped.
        embedding_VD: a row per unit.
        padding_BT: bool, or None where nothing is padded.
        backend: ``"triton"``, ``"torch"``, or ``"auto"``: what the environment variable ``NEMO_SPEECHLM_KERNELS``
            says, else Triton for CUDA tensors where it is installed, and PyTorch for others.

    Returns:
        (B, T, D), a new tensor.

    Raises:
        ValueError: for arguments that belong together and are not, or an unknown backend.
    """
    if (mask_BT is None) != (mask_vector_D is None):
        raise ValueError("mix_states: mask and mask_vector belong together")
    if not (swap_BT is None) == (units_BT is None) == (embedding_VD is None):
        raise ValueError("mix_states: swap, units and embedding belong together")
    mix = choose_kernel(backend, states_BTD, mix_states_torch, _triton)
    return mix(states_BTD, mask_BT, mask_vector_D, swap_BT, units_BT, embedding_VD, padding_BT)


def mix_states_torch(
    states_BTD: Tensor,
    mask_BT: Tensor | None = None,
    mask_vector_D: Tensor | None = None,
    swap_BT: Tensor | None = None,
    units_BT: Tensor | None = None,
    embedding_VD: Tensor | None = None,
    padding_BT: Tensor | None = None,
) -> Tensor:
    """The PyTorch version of :func:`mix_states`: a pass over the states for each kind of replacement.

    On a CPU a pass costs what the states take to be read and written, so there only the rows that change are touched.
    """
    if is_fast(states_BTD, mask_vector_D, embedding_VD) and states_BTD.numel():
        swap, mask, padding = swap_BT, mask_BT, padding_BT
        if padding is not None:
            mask = None if mask is None else mask & ~padding
            swap = None if swap is None else swap & ~padding
        if mask is not None:
            swap = None if swap is None else swap & ~mask
        places = [
            None if frames is None else frames.reshape(-1).nonzero().squeeze(1) for frames in (swap, mask, padding)
        ]
        units = None if places[0] is None or units_BT is None else units_BT.reshape(-1)[places[0]]
        return _MixRows.apply(states_BTD, mask_vector_D, embedding_VD, units, *places)
    mixed = states_BTD
    if swap_BT is not None and units_BT is not None and embedding_VD is not None:
        rows = torch.nn.functional.embedding(units_BT.masked_fill(~swap_BT, 0), embedding_VD)
        mixed = torch.where(swap_BT.unsqueeze(2), rows.type_as(mixed), mixed)
    if mask_BT is not None and mask_vector_D is not None:
        mixed = torch.where(mask_BT.unsqueeze(2), mask_vector_D.type_as(mixed), mixed)
    if padding_BT is not None:
        mixed = mixed.masked_fill(padding_BT.unsqueeze(2), 0.0)
    return mixed


class _MixRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, mask_vector: Tensor | None, embedding: Tensor | None, units: Tensor | None,
        swapped: Tensor | None, masked: Tensor | None, padded: Tensor | None,
    ) -> Tensor:  # fmt: skip
        mixed = states.clone(memory_format=torch.contiguous_format)
        rows_ND = mixed.view(-1, mixed.shape[-1])
        if swapped is not None and units is not None and embedding is not None:
            rows_ND.index_copy_(0, swapped, embedding.index_select(0, units))
        if masked is not None and mask_vector is not None:
            rows_ND.index_copy_(0, masked, mask_vector.expand(len(masked), -1))
        if padded is not None:
            rows_ND.index_fill_(0, padded, 0.0)
        ctx.save_for_backward(units, swapped, masked, padded)
        ctx.num_units = None if embedding is None else len(embedding)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        units, swapped, masked, padded = ctx.saved_tensors
        rows_ND = gradient.reshape(-1, gradient.shape[-1])
        of_mask = of_embedding = of_states = None
        if ctx.needs_input_grad[1]:
            of_mask = rows_ND.index_select(0, masked).sum(0)
        if ctx.needs_input_grad[2]:
            of_embedding = rows_ND.new_zeros(ctx.num_units, rows_ND.shape[1])
            of_embedding.index_add_(0, units, rows_ND.index_select(0, swapped))
        if ctx.needs_input_grad[0]:
            of_states = gradient.clone(memory_format=torch.contiguous_format)
            for rows in (swapped, masked, padded):
                if rows is not None:
                    of_states.view(rows_ND.shape).index_fill_(0, rows, 0.0)
        return of_states, of_mask, of_embedding, None, None, None, None


@cache
def _triton() -> Callable[..., Tensor] | None:
    try:
        from nemo_speechlm.kernels.mixing_triton import mix_states_triton
    except ImportError:
        return None
    return mix_states_triton

"""The Triton version of :func:`nemo_speechlm.kernels.mixing.mix_states`: one kernel forward, one backward.

Each reads what it needs of the states once and writes its result once. A program takes ``ROWS`` frames and ``COLUMNS``
channels of them. Sums over frames for the mask vector are made per program and then added in a fixed order; those for
the embedding are added atomically in fp32, as several frames may have the same unit.

Axis legend: B utterances, T frames, N = B * T, D width, V units.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 16
COLUMNS = 256

# What becomes of a frame.
_KEPT, _SWAPPED, _MASKED, _PADDED = 0, 1, 2, 3


@triton.jit
def _forward_kernel(
    states, fates, units, mask_vector, embedding, mixed,
    N, T, D, states_b, states_t, embedding_v,
    HAS_MASK: tl.constexpr, HAS_SWAP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_row, in_column = row < N, column < D
    fate = tl.load(fates + row, mask=in_row, other=3)
    inside = in_row[:, None] & in_column[None, :]
    source = states + (row // T * states_b + row % T * states_t)[:, None] + column[None, :]
    value = tl.load(source, mask=inside & (fate == 0)[:, None], other=0.0)
    if HAS_SWAP:
        unit = tl.load(units + row, mask=in_row & (fate == 1), other=0).to(tl.int64)
        swapped = inside & (fate == 1)[:, None]
        vector = tl.load(embedding + (unit * embedding_v)[:, None] + column[None, :], mask=swapped, other=0.0)
        value = tl.where(swapped, vector.to(value.dtype), value)
    if HAS_MASK:
        mask_value = tl.load(mask_vector + column, mask=in_column, other=0.0).to(value.dtype)
        value = tl.where((fate == 2)[:, None], mask_value[None, :], value)
    tl.store(mixed + (row * D)[:, None] + column[None, :], value, mask=inside)


@triton.jit
def _backward_kernel(
    gradient, fates, units, of_states, of_mask, of_embedding,
    N, T, D, gradient_b, gradient_t,
    HAS_STATES: tl.constexpr, HAS_MASK: tl.constexpr, HAS_SWAP: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    in_row, in_column = row < N, column < D
    fate = tl.load(fates + row, mask=in_row, other=3)
    inside = in_row[:, None] & in_column[None, :]
    source = gradient + (row // T * gradient_b + row % T * gradient_t)[:, None] + column[None, :]
    value = tl.load(source, mask=inside & (fate < 3)[:, None], other=0.0)
    if HAS_STATES:
        kept = tl.where((fate == 0)[:, None], value, 0.0)
        tl.store(of_states + (row * D)[:, None] + column[None, :], kept, mask=inside)
    if HAS_MASK:
        masked = tl.sum(tl.where((fate == 2)[:, None], value.to(tl.float32), 0.0), axis=0)
        tl.store(of_mask + tl.program_id(0) * D + column, masked, mask=in_column)
    if HAS_SWAP:
        unit = tl.load(units + row, mask=in_row & (fate == 1), other=0).to(tl.int64)
        swapped = inside & (fate == 1)[:, None]
        tl.atomic_add(of_embedding + (unit * D)[:, None] + column[None, :], value.to(tl.float32), mask=swapped)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, fates: Tensor, units: Tensor | None, mask_vector: Tensor | None,
        embedding: Tensor | None,
    ) -> Tensor:  # fmt: skip
        B, T, D = states.shape
        states = _rows_of_channels(states)
        embedding = None if embedding is None else _rows_of_channels(embedding)
        mixed = torch.empty(B, T, D, dtype=states.dtype, device=states.device)
        if mixed.numel():
            with torch.cuda.device_of(states):  # Triton launches on the current device
                _forward_kernel[_grid(B * T, D)](
                    states, fates, _or(units, fates), _or(mask_vector, states), _or(embedding, states), mixed,
                    B * T, T, D, states.stride(0), states.stride(1), 0 if embedding is None else embedding.stride(0),
                    HAS_MASK=mask_vector is not None, HAS_SWAP=embedding is not None, ROWS=ROWS, COLUMNS=COLUMNS,
                )  # fmt: skip
        ctx.save_for_backward(fates, units)
        ctx.mask_dtype = None if mask_vector is None else mask_vector.dtype
        ctx.embedding_like = None if embedding is None else (embedding.shape, embedding.dtype)
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        fates, units = ctx.saved_tensors
        B, T, D = gradient.shape
        gradient = _rows_of_channels(gradient)
        device, grid = gradient.device, _grid(B * T, D)
        for_states, _, _, for_mask, for_embedding = ctx.needs_input_grad
        of_states = torch.empty(B, T, D, dtype=gradient.dtype, device=device) if for_states else None
        of_mask = torch.empty(grid[0], D, device=device) if for_mask else None
        of_embedding = torch.zeros(ctx.embedding_like[0], device=device) if for_embedding else None
        if gradient.numel():
            with torch.cuda.device_of(gradient):
                _backward_kernel[grid](
                    gradient, fates, _or(units, fates), _or(of_states, gradient), _or(of_mask, gradient),
                    _or(of_embedding, gradient), B * T, T, D, gradient.stride(0), gradient.stride(1),
                    HAS_STATES=for_states, HAS_MASK=for_mask, HAS_SWAP=for_embedding, ROWS=ROWS, COLUMNS=COLUMNS,
                )  # fmt: skip
        return (
            of_states,
            None,
            None,
            None if of_mask is None else of_mask.sum(0).to(ctx.mask_dtype),
            None if of_embedding is None else of_embedding.to(ctx.embedding_like[1]),
        )


def mix_states_triton(
    states_BTD: Tensor,
    mask_BT: Tensor | None = None,
    mask_vector_D: Tensor | None = None,
    swap_BT: Tensor | None = None,
    units_BT: Tensor | None = None,
    embedding_VD: Tensor | None = None,
    padding_BT: Tensor | None = None,
) -> Tensor:
    """See :func:`nemo_speechlm.kernels.mixing.mix_states`."""
    B, T, _ = states_BTD.shape
    fates = torch.full((B, T), _KEPT, dtype=torch.uint8, device=states_BTD.device)
    for frames, fate in ((swap_BT, _SWAPPED), (mask_BT, _MASKED), (padding_BT, _PADDED)):
        if frames is not None:
            fates.masked_fill_(frames, fate)
    units = None if units_BT is None else units_BT.contiguous()
    mask_vector = None if mask_vector_D is None else mask_vector_D.contiguous()
    return _Mix.apply(states_BTD, fates, units, mask_vector, embedding_VD)


def _grid(num_frames: int, width: int) -> tuple[int, int]:
    return triton.cdiv(num_frames, ROWS), triton.cdiv(width, COLUMNS)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel's argument must be a tensor even where it is not read."""
    return other if tensor is None else tensor


def _rows_of_channels(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()

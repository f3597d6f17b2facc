"""Random numbers for the rows of a batch: from PyTorch's generator, or from a seed of each row.

Axis legend: B rows, N frames of all rows, K distractors.
"""

from collections.abc import Sequence
from pathlib import PurePath
from zlib import crc32

import numpy as np
import torch
from torch import Generator, Tensor


class RowSeeds:
    """Draws for each row of a batch from a seed of its own.

    What a row gets depends on its seed alone, neither on the other rows nor on the padding nor on the device. Each
    call draws new numbers.

    Args:
        seeds: whole numbers, one for each row.
    """

    def __init__(self, seeds: Sequence[int]):
        self.seeds = seeds
        self._calls = 0

    @classmethod
    def of(cls, ids: Sequence[str], number: int) -> "RowSeeds":
        """For ``number`` examples: by their ids without the folders in them, or by their places without ids."""
        return cls([crc32(PurePath(name).name.encode()) for name in ids] if ids else range(number))

    def uniform(self, number: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, number) in [0, 1), on the CPU; the first numbers of a row are the same however many there are."""
        exact = np.float64 if dtype == torch.float64 else np.float32
        rows = [np.random.default_rng((seed, self._calls)).random(number, dtype=exact) for seed in self.seeds]
        self._calls += 1
        return torch.from_numpy(np.stack(rows))


Draws = Generator | RowSeeds | None
"""What is drawn with; None stands for PyTorch's own generator."""


def uniform(shape: Sequence[int], device: torch.device, draws: Draws, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers in [0, 1) of ``dtype``, float32 or float64.

    Args:
        shape: (B,) or (B, how many for each row).
        device: that they are wanted on.
        draws: what they are drawn with.
        dtype: of the numbers.
    """
    if isinstance(draws, RowSeeds):
        return draws.uniform(shape[1] if len(shape) > 1 else 1, dtype).reshape(tuple(shape)).to(device)
    return torch.rand(tuple(shape), device=device, dtype=dtype, generator=draws)


def whole_numbers(low: int, high: int, shape: Sequence[int], device: torch.device, draws: Draws) -> Tensor:
    """Whole numbers from ``low`` to ``high - 1``, each as likely, int64; see :func:`uniform` for the rest."""
    if isinstance(draws, RowSeeds):
        return low + (uniform(shape, device, draws, torch.float64) * (high - low)).long()
    return torch.randint(low, high, tuple(shape), device=device, generator=draws)


def draw_distractors(rows_N: Tensor, number: int, generator: Draws = None) -> Tensor:
    """For each frame, other frames of its utterance, drawn with replacement.

    Args:
        rows_N: (N,) the utterance of each frame, ascending.
        number: K.
        generator: what they are drawn with. With :class:`RowSeeds`, each frame's depend on the seed of its utterance,
            its place there, and how many there are.

    Returns:
        (N, K) positions among the N. A frame that is alone in its utterance gets itself.
    """
    counts = torch.bincount(rows_N)
    first = (counts.cumsum(0) - counts)[rows_N]
    others = (counts[rows_N] - 1).unsqueeze(1)
    own = (torch.arange(len(rows_N), device=rows_N.device) - first).unsqueeze(1)
    if isinstance(generator, RowSeeds):
        most = int(counts.max()) if len(counts) else 0
        of_rows = uniform((len(generator.seeds), most * number), rows_N.device, generator, torch.float64)
        draws = of_rows.view(len(generator.seeds), most, number)[rows_N, own.squeeze(1)]
    else:
        draws = uniform((len(rows_N), number), rows_N.device, generator, torch.float64)
    place = torch.minimum((draws * others).long(), (others - 1).clamp(min=0))
    place = place + ((place >= own) & (others > 0))
    return first.unsqueeze(1) + place

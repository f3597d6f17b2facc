"""Span masking (SpeechLM section 3.3; wav2vec 2.0 section 3.1), drawn on the device and row by row.

Axis legend: B rows, T frames, N spans.
"""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from nemo_speechlm.modules.draws import Draws, RowSeeds, uniform


def _check(name: str, share: Any, length: Any, min_spans: Any) -> None:
    is_number = isinstance(share, int | float) and not isinstance(share, bool)
    if not is_number or not 0 <= share <= 1:
        raise ValueError(f"span masking: {name} is {share!r}, expected a number from 0 to 1")
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (length, min_spans))
    if not whole or length < 1 or min_spans < 0:
        raise ValueError(
            f"span masking: length is {length!r}, min_spans {min_spans!r}; expected whole numbers of at least 1 and 0"
        )


@dataclass(frozen=True)
class SpanMask:
    """How spans are drawn.

    Args:
        prob: share of a row's frames that the spans would cover if they did not overlap.
        length: frames in a span.
        min_spans: at least so many in each row.
    """

    prob: float
    length: int
    min_spans: int = 0

    def __post_init__(self):
        _check("prob", self.prob, self.length, self.min_spans)

    def draw(
        self,
        lengths: Tensor,
        num_frames: int,
        generator: Draws = None,
    ) -> Tensor:
        """Draw spans for rows of the given lengths (B,); returns (B, num_frames) bool, True inside a span.

        Each row gets ``prob * length / span`` spans, rounded up or down at random so that the mean is exact. Starts
        are distinct and leave room for a whole span. fairseq afterwards unmasks frames until all rows have as many as
        the poorest; that punches holes into spans and starves long rows, and is not done here.

        Args:
            lengths: frames of each row.
            num_frames: T.
            generator: what is drawn with. With :class:`RowSeeds`, a row's spans depend on its seed and length alone.
        """
        return draw_spans(self.prob, self.length, self.min_spans, lengths, num_frames, generator)


@dataclass(frozen=True)
class CoveringMask:
    """Span masking by the share of frames that ends up masked, which overlaps lower in :class:`SpanMask`.

    Args:
        share: of a row's frames that are inside of spans, in the mean over rows much longer than a span.
        length: frames in a span.
        min_spans: at least so many in each row.
    """

    share: float
    length: int
    min_spans: int = 0

    def __post_init__(self):
        _check("share", self.share, self.length, self.min_spans)

    def draw(self, lengths: Tensor, num_frames: int, generator: Draws = None) -> Tensor:
        """Draw spans for rows of the given lengths (B,); returns (B, num_frames) bool, True inside a span."""
        # A frame stays unmasked where none of the ``length`` places that reach it begins a span.
        prob = self.length * (1 - (1 - self.share) ** (1 / self.length))
        return draw_spans(prob, self.length, self.min_spans, lengths, num_frames, generator)


def draw_spans(
    prob: float,
    length: int,
    min_spans: int,
    lengths: Tensor,
    num_frames: int,
    generator: Draws = None,
) -> Tensor:
    """What :meth:`SpanMask.draw` says; ``prob`` may be more than 1, since spans overlap."""
    device = lengths.device
    most = max(ceil(prob * num_frames / length), min_spans)
    if not most:
        return torch.zeros(len(lengths), num_frames, dtype=torch.bool, device=device)
    most = min(most, num_frames)
    frames = torch.arange(num_frames, device=device)
    draws = uniform((len(lengths), num_frames + 1), device, generator)
    if isinstance(generator, RowSeeds):  # the first of them is that of the whole row, so that padding changes no other
        draws = draws.roll(-1, 1)
    wanted = (prob / length * lengths + draws[:, -1]).long().clamp(min=min_spans).unsqueeze(1)
    choices = (lengths - length + 1).clamp(min=1).unsqueeze(1)
    keys = draws[:, :-1].masked_fill(frames >= choices, 2.0)
    # Spans start at the smallest keys. So that "the most-th smallest" serves rows that want fewer, these get as
    # many keys below all others.
    below = torch.where(frames[:most] < wanted, 3.0, -1.0)
    last = _kth_smallest(torch.cat([keys, below], 1), most)
    starts = (keys <= last) & (keys < 2.0)
    inside = max_pool1d(pad(starts.float(), (length - 1, 0)), length, stride=1) > 0
    return inside & (frames < lengths.unsqueeze(1))


def _kth_smallest(x: Tensor, k: int) -> Tensor:
    """The k-th smallest value of each row, (B, N) -> (B, 1)."""
    if x.is_cpu and not torch.compiler.is_compiling():  # NumPy selects with vector instructions: a sixth of the time
        return torch.from_numpy(np.partition(x.numpy(), k - 1, axis=1)[:, k - 1 : k])
    return x.kthvalue(k, dim=1, keepdim=True).values

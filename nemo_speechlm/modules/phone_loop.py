"""Any sequence of units as one HMM, and the best path through it.

Axes: B utterances, T frames, C outputs of a classifier, U units that may be decoded, N states of a unit.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nemo_speechlm.modules.full_width import FullWidth

IMPOSSIBLE = -1e9
"""A log-probability below all others. float32 has no digits left for what is added to it."""


class DecodedUnits(NamedTuple):
    """The best path of an utterance.

    Attributes:
        units: ids of the units, in order.
        durations: frames of each; they sum up to the utterance's.
        score: the path's score.
    """

    units: list[int]
    durations: list[int]
    score: float


class PhoneLoop(FullWidth):
    """Viterbi decoding of frame scores into units, which follow each other by a bigram.

    A unit is a chain of ``min_duration`` states, each of which lasts a frame or more. The score of a path sums up the
    frames' scores, ``lm_weight`` times the bigram's log-probabilities, and ``penalty`` for each unit.

    Args:
        outputs: (V, S) for each unit of an inventory, the output of the classifier that scores its first, second, ...
            part; the states of a unit share its parts evenly.
        min_duration: frames that a unit lasts at least; at least S.
        lm_weight: of the bigram.
        penalty: added for each unit; positive ones make more of them.

    Attributes:
        bigram: (V + 1, V + 1) log-probabilities, column after row; the last row is the beginning of an utterance and
            the last column its end. What is ``-inf`` never happens. Uniform until :meth:`set_bigram`.
    """

    bigram: Tensor
    outputs: Tensor

    def __init__(self, outputs: Tensor, min_duration: int = 3, lm_weight: float = 1.0, penalty: float = 0.0):
        super().__init__()
        num_units, parts = outputs.shape
        if min_duration < parts:
            raise ValueError(f"min_duration is {min_duration}, but units have {parts} parts of a frame or more")
        self.min_duration, self.lm_weight, self.penalty = min_duration, lm_weight, penalty
        self.register_buffer("outputs", outputs, persistent=False)
        self.register_buffer("bigram", torch.full((num_units + 1, num_units + 1), -math.log(num_units + 1)))

    def set_bigram(self, bigram: Tensor) -> None:
        """Replace the bigram; see the class."""
        if bigram.shape != self.bigram.shape:
            raise ValueError(f"bigram of shape {tuple(bigram.shape)}, expected {tuple(self.bigram.shape)}")
        self.bigram.copy_(bigram)

    @torch.no_grad()
    def forward(self, scores: Tensor, lengths: Tensor) -> list[DecodedUnits]:
        """Find the best path of each utterance.

        Args:
            scores: (B, T, C) log-likelihoods of the frames, up to a constant for each frame.
            lengths: (B,) frames of each, at least 1. One shorter than ``min_duration`` is a single unit.
        """
        units = self._reachable()
        decoded = self._search(scores, lengths, units, apart=scores.device.type == "cpu")
        lost = [b for b, found in enumerate(decoded) if found.score < IMPOSSIBLE / 2]
        if lost:  # they are too short to begin and end as the bigram demands: the least impossible path counts
            again = self._search(scores[lost], lengths.to(scores.device)[lost], units, apart=False)
            for b, found in zip(lost, again, strict=True):
                decoded[b] = found
        return decoded

    def _search(self, scores: Tensor, lengths: Tensor, units: Tensor, apart: bool) -> list[DecodedUnits]:
        """The best paths; with ``apart``, pairs of units that the bigram forbids are left out of the sums."""
        within, start, end = self._transitions(units, scores)
        parts = torch.arange(self.min_duration, device=scores.device) * self.outputs.shape[1] // self.min_duration
        outputs = self.outputs[units][:, parts]  # (U, N)
        lengths = lengths.to(scores.device)
        B, T = scores.shape[0], int(lengths.max())
        U, N = outputs.shape
        entering = _Entering(within, B, apart)
        moved = torch.zeros(T, B, U, N, dtype=torch.bool, device=scores.device)
        leaving = torch.zeros(T, B, U, device=scores.device)  # scores of the last states, from which the next begin
        path = torch.full((B, U, N), IMPOSSIBLE, device=scores.device)
        arriving = torch.empty_like(path)
        for t in range(T):
            frame = scores[:, t, outputs]  # (B, U, N)
            if t == 0:
                best = path.clone()
                best[:, :, 0] = start
                moved[0, :, :, 0] = True
            else:
                leaving[t - 1] = path[:, :, -1]
                arriving[:, :, 0] = entering(leaving[t - 1])
                arriving[:, :, 1:] = path[:, :, :-1]
                torch.gt(arriving, path, out=moved[t])
                best = torch.maximum(arriving, path)
            # scores of a finished utterance stay as they are
            path = torch.where((t < lengths)[:, None, None], best + frame, path)
        return self._trace(path, end, moved, leaving, lengths, units, within)

    def _reachable(self) -> Tensor:
        """(U,) ids of the units that can be reached."""
        units = torch.nonzero(self.bigram[:, :-1].amax(0) > -math.inf).flatten()
        if not len(units):
            raise ValueError("the bigram allows no unit at all")
        return units

    def _transitions(self, units: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores between units (to, from), of beginning with each and of ending after each."""
        weighted = torch.where(self.bigram > -math.inf, self.bigram * self.lm_weight, IMPOSSIBLE).to(scores)
        within = weighted[units][:, units].T.contiguous() + self.penalty
        return within, weighted[-1, units] + self.penalty, weighted[units, -1]

    def _trace(
        self,
        path: Tensor,
        end: Tensor,
        moved: Tensor,
        leaving: Tensor,
        lengths: Tensor,
        units: Tensor,
        within: Tensor,
    ) -> list[DecodedUnits]:
        N = path.shape[2]
        last = (lengths.clamp(max=N) - 1)[:, None].expand(-1, path.shape[1]).unsqueeze(2)
        scores, best = (path.gather(2, last).squeeze(2) + end).max(1)
        moves, sources, ids = moved.cpu().numpy(), leaving.cpu().numpy(), units.tolist()
        into = within.cpu().numpy()
        decoded = []
        for b, (length, unit) in enumerate(zip(lengths.tolist(), best.tolist(), strict=True)):
            state, stop = min(length, N) - 1, length
            found: list[tuple[int, int]] = []
            for t in range(length - 1, -1, -1):
                if not moves[t, b, unit, state]:
                    continue
                if state:
                    state -= 1
                    continue
                found.append((ids[unit], stop - t))
                if t:  # where it came from is looked for on this path alone
                    unit = int(np.argmax(sources[t - 1, b] + into[unit]))
                state, stop = N - 1, t
            if stop:  # no path at all: so short an utterance cannot begin and end as the bigram demands
                found.append((ids[unit], stop))
            found.reverse()
            decoded.append(DecodedUnits([u for u, _ in found], [d for _, d in found], float(scores[b])))
        return decoded


class _Entering:
    """The best score with which a unit is entered: the largest sum of a last state's score and a transition's.

    Units that may follow the same ones are looked at together, after these alone: in phones with positions in the
    word, a sixth of all pairs is left. Sums are those of all pairs; no others could be the largest.

    Args:
        within: (U, U) scores of transitions (to, from).
        batch: B utterances.
        apart: do so; else all pairs are summed up.
    """

    def __init__(self, within: Tensor, batch: int, apart: bool):
        self._entry = torch.full((batch, len(within)), IMPOSSIBLE, device=within.device)
        self._groups = list(_groups(within)) if apart else []
        self._all = within
        self._sums = [within.new_empty(batch, *table.shape) for _, _, table in self._groups]

    def __call__(self, leaving: Tensor) -> Tensor:
        """Scores of the last states (B, U) -> of entering (B, U)."""
        if not self._groups:
            return (leaving.unsqueeze(1) + self._all).amax(2)
        for (to, source, table), sums in zip(self._groups, self._sums, strict=True):
            torch.add(leaving[:, source].unsqueeze(1), table, out=sums)
            self._entry[:, to] = sums.amax(2)
        return self._entry


def _groups(within: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Units that may follow the same ones: their numbers, of those that they may follow, and the scores (to, from)."""
    masks, group = torch.unique(torch.gt(within, IMPOSSIBLE / 2), dim=0, return_inverse=True)
    for number, mask in enumerate(masks):
        to, source = torch.nonzero(group == number).flatten(), torch.nonzero(mask).flatten()
        if len(source):
            yield to, source, within[to][:, source].contiguous()

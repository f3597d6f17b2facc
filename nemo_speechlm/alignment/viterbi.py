"""The best path through each graph of a batch, all at once.

Axes: B utterances, T frames, P states of all phones, N states of a graph, E entries of a graph, K sources of an entry.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nemo_speechlm.alignment.graph import IMPOSSIBLE, Graph

_CHUNK = 64
"""Frames whose emissions are looked up together."""
_LOST = IMPOSSIBLE / 2
"""Scores below this are those of no path."""


class GraphBatch(NamedTuple):
    """Graphs side by side, filled up to the largest; the fields are those of :class:`Graph`, on one device."""

    states: Tensor  # (B, N)
    chained: Tensor  # (B, N) log-probability: 0 or IMPOSSIBLE
    initial: Tensor  # (B, N)
    final: Tensor  # (B, N)
    entries: Tensor  # (B, E); filled up with the last column, N, which is no state
    sources: Tensor  # (B, E, K)
    weights: Tensor  # (B, E, K)


def batch_graphs(graphs: Sequence[Graph], device: torch.device | str = "cpu") -> GraphBatch:
    """Stack graphs, padded to the largest. One more column is a dummy slot that padded entries write to."""
    size = max(len(graph.states) for graph in graphs) + 1
    entries = max(1, *(len(graph.entries) for graph in graphs)) if len(graphs) > 1 else max(1, len(graphs[0].entries))
    width = max(graph.sources.shape[1] for graph in graphs)

    def filled(shape: tuple[int, ...], fill: float, dtype: type, field: str) -> Tensor:
        array: Any = np.full((len(graphs), *shape), fill, dtype=dtype)
        for row, graph in enumerate(graphs):
            value = getattr(graph, field)
            array[(row, *(slice(0, n) for n in value.shape))] = value
        return torch.from_numpy(array).to(device)

    chained = filled((size,), 0, bool, "chained")
    sources = filled((entries, width), -1, np.int64, "sources")
    return GraphBatch(
        filled((size,), 0, np.int64, "states"),
        torch.where(chained, 0.0, IMPOSSIBLE),
        filled((size,), IMPOSSIBLE, np.float32, "initial"),
        filled((size,), IMPOSSIBLE, np.float32, "final"),
        filled((entries,), size - 1, np.int64, "entries"),
        torch.where(sources < 0, size - 1, sources),
        filled((entries, width), IMPOSSIBLE, np.float32, "weights"),
    )


def viterbi(emissions: Tensor, lengths: Tensor, graphs: GraphBatch, stay: Tensor) -> tuple[Tensor, Tensor]:
    """Find the best paths.

    Args:
        emissions: (B, T, P) log-likelihoods of the frames.
        lengths: (B,) frames of each utterance, 1 to T.
        graphs: a graph for each utterance.
        stay: (P,) probability of staying in a state for another frame.

    Returns:
        (B, T) the graph's state in each frame, arbitrary behind an utterance's end; and (B,) the log-probability of
        the whole path, below ``IMPOSSIBLE / 2`` where there is no path.
    """
    batch, frames, _ = emissions.shape
    best = emissions.max(2).values
    emissions = emissions - best[:, :, None]  # what all paths share would cost float32 its last digits
    states = graphs.states
    size = states.shape[1]
    log_stay, log_leave = stay.log()[states], torch.log1p(-stay)[states]
    move = torch.cat([states.new_full((batch, 1), IMPOSSIBLE, dtype=log_leave.dtype), log_leave[:, :-1]], dim=1)
    move = torch.maximum(move + graphs.chained, torch.full_like(move, IMPOSSIBLE))
    flat_sources = graphs.sources.flatten(1)
    entry_weights = graphs.weights.flatten(1) + log_leave.gather(1, flat_sources)
    width = graphs.sources.shape[2]
    ending = graphs.final + log_leave

    back = torch.empty(frames, batch, size, dtype=torch.uint8, device=states.device)  # 0 stay, 1 move, 2 + k entry k
    endings = emissions.new_full((batch,), IMPOSSIBLE)
    last = torch.zeros(batch, dtype=torch.long, device=states.device)
    ends_at: dict[int, list[int]] = {}
    for row, length in enumerate(lengths.tolist()):
        ends_at.setdefault(length - 1, []).append(row)
    index = states[:, None, :]
    moved = emissions.new_full((batch, size), IMPOSSIBLE)
    score = graphs.initial
    for begin in range(0, frames, _CHUNK):
        chunk = emissions[:, begin : begin + _CHUNK]
        looked_up = chunk.gather(2, index.expand(-1, chunk.shape[1], -1)).transpose(0, 1).contiguous()
        for offset, emission in enumerate(looked_up):
            frame = begin + offset
            if frame:
                torch.add(score[:, :-1], move[:, 1:], out=moved[:, 1:])
                stayed = score + log_stay
                entered, source = (score.gather(1, flat_sources) + entry_weights).view(batch, -1, width).max(2)
                came = back[frame]
                torch.gt(moved, stayed, out=came.view(torch.bool))
                score = torch.maximum(moved, stayed)
                here = score.gather(1, graphs.entries)
                taken = entered > here
                score.scatter_(1, graphs.entries, torch.where(taken, entered, here))
                source = torch.where(taken, source + 2, came.gather(1, graphs.entries))
                came.scatter_(1, graphs.entries, source.to(torch.uint8))
            score = score + emission
            score.clamp_(min=IMPOSSIBLE)  # sums of the impossible would overflow in time
            for row in ends_at.get(frame, ()):
                endings[row], last[row] = (score[row] + ending[row]).max(0)
    shared = (best.double() * (torch.arange(frames, device=best.device) < lengths[:, None])).sum(1)
    return _trace(back, lengths, last, graphs), endings.double() + shared


def _trace(back: Tensor, lengths: Tensor, last: Tensor, graphs: GraphBatch) -> Tensor:
    """Walk back from the last states; on the CPU, for its steps are many and small."""
    back_, lengths_, state = back.cpu().numpy(), lengths.cpu().numpy(), last.cpu().numpy().copy()
    sources = graphs.sources.cpu().numpy()
    frames, batch, size = back_.shape
    entry_of = np.zeros((batch, size), dtype=np.int64)
    rows = np.arange(batch)
    entry_of[rows[:, None], graphs.entries.cpu().numpy()] = np.arange(graphs.entries.shape[1])
    path = np.empty((frames, batch), dtype=np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        came = back_[frame, rows, state]
        came = np.where((frame > 0) & (frame < lengths_), came, 0)
        jumped = np.flatnonzero(came > 1)
        state = state - (came == 1)
        if len(jumped):
            at = path[frame, jumped]
            state[jumped] = sources[jumped, entry_of[jumped, at], came[jumped] - 2]
    return torch.from_numpy(path.T.copy())


def is_path(scores: Tensor) -> Tensor:
    """Whether each of the scores that :func:`viterbi` returned is that of a path."""
    return scores > _LOST

"""A trained aligner (features, topology, mixtures, transitions) and the alignments that it returns.

Axes: B utterances, T frames, N states of a graph, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nemo_speechlm.alignment.graph import Graph, Topology, Variants, build_graph
from nemo_speechlm.alignment.mfcc import Mfcc
from nemo_speechlm.alignment.mixtures import Mixtures
from nemo_speechlm.alignment.viterbi import batch_graphs, is_path, viterbi
from nemo_speechlm.errors import SkipItem


class AlignedPhone(NamedTuple):
    """A phone with its number of frames.

    Attributes:
        label: as it stood in the pronunciation.
        frames: of 10 ms.
    """

    label: str
    frames: int


class Alignment(NamedTuple):
    """The best path through an utterance.

    Attributes:
        states: (T,) int16, the topology's state in each frame.
        phones: in order, silences included; their frames sum up to T.
        score: log-likelihood per frame, transitions included.
    """

    states: np.ndarray
    phones: list[AlignedPhone]
    score: float


@dataclass(frozen=True)
class GmmAligner:
    """Aligns normalized features with the phones of words.

    Args:
        topology: the phones and their states.
        mixtures: a Gaussian mixture for each state.
        stay: (P,) probability of staying in a state for another frame.
        silence_probability: of a silence between two words and at each end.
        silence: the label of silences in what comes out.
        mfcc: the features.
    """

    topology: Topology
    mixtures: Mixtures
    stay: Tensor
    silence_probability: float = 0.5
    silence: str = "SIL"
    mfcc: Mfcc = field(default_factory=Mfcc)

    def to(self, device: torch.device | str) -> "GmmAligner":
        """The same on another device."""
        return GmmAligner(
            self.topology,
            self.mixtures.to(device),
            self.stay.to(device),
            self.silence_probability,
            self.silence,
            self.mfcc,
        )

    def graph(self, words: Sequence[Variants]) -> Graph:
        """What words may sound like.

        Raises:
            SkipItem: if there are none.
            InputError: at a phone that the aligner does not have.
        """
        if not words:
            raise SkipItem("no words to align")
        return build_graph(words, self.topology, self.silence, self.silence_probability)

    def align(self, features: Sequence[Tensor], graphs: Sequence[Graph]) -> list[Alignment | SkipItem]:
        """Align a batch of utterances.

        Args:
            features: (T, D) of each utterance, normalized, on any device.
            graphs: what each may sound like.

        Returns:
            The best path of each, or why there is none.
        """
        results: list[Alignment | SkipItem] = [
            why_not(len(x), graph)  # type: ignore[misc]
            for x, graph in zip(features, graphs, strict=True)
        ]
        rows = [row for row, reason in enumerate(results) if reason is None]
        if not rows:
            return results
        lengths = torch.tensor([len(features[row]) for row in rows])
        device = self.mixtures.means.device
        flat = torch.cat([features[row] for row in rows]).to(device)
        emissions = torch.nn.utils.rnn.pad_sequence(self.mixtures.score(flat).split(lengths.tolist()), True)
        batch = batch_graphs([graphs[row] for row in rows], device)
        paths, scores = viterbi(emissions, lengths.to(device), batch, self.stay.to(device))
        found = is_path(scores).tolist()
        for row, path, score, length, good in zip(rows, paths, scores.tolist(), lengths.tolist(), found, strict=True):
            results[row] = (
                _path(graphs[row], path[:length].numpy(), score / length)
                if good
                else SkipItem("no path through the audio")
            )
        return results


def why_not(frames: int, graph: Graph) -> SkipItem | None:
    """The reason why this many frames cannot be aligned with a graph; None if they can."""
    if frames < graph.shortest:
        return SkipItem(f"the audio is too short for the words: {frames} frames, {graph.shortest} needed")
    return None


def _path(graph: Graph, states: np.ndarray, score: float) -> Alignment:
    segments = graph.segment[states]
    starts = np.flatnonzero(np.diff(segments, prepend=-1))
    frames = np.diff(starts, append=len(segments))
    phones = [
        AlignedPhone(graph.phones[segments[s]], n) for s, n in zip(starts.tolist(), frames.tolist(), strict=True)
    ]
    return Alignment(graph.states[states].astype(np.int16), phones, score)

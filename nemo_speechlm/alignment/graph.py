"""The graph of an utterance: HMM states of its words' pronunciations, with optional silences between them.

Axes: N states of an utterance's graph, E states that are entered from other places than the state before them,
K places that they are entered from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from nemo_speechlm.errors import InputError

IMPOSSIBLE = -1e30
"""A log-probability below all others that leaves room for sums in float32."""


@dataclass(frozen=True)
class Topology:
    """Which states the phones have: each a chain that is walked from left to right, a frame or more in each state.

    Args:
        phones: acoustic phones, silence among them.
        silence: the one that may stand between words and at both ends.
        states: of a phone.
        silence_states: of the silence.
    """

    phones: tuple[str, ...]
    silence: str
    states: int = 3
    silence_states: int = 3
    _first: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.silence not in self.phones:
            raise InputError(f"silence {self.silence!r} is not among the phones")
        first, total = {}, 0
        for phone in self.phones:
            first[phone] = total
            total += self.length(phone)
        object.__setattr__(self, "_first", first)

    def length(self, phone: str) -> int:
        """Number of the phone's states, and so of the frames that it lasts at least."""
        return self.silence_states if phone == self.silence else self.states

    @property
    def num_states(self) -> int:
        """Number of all phones' states together."""
        return sum(map(self.length, self.phones))

    def states_of(self, phone: str) -> range:
        """Numbers of the phone's states among those of all phones.

        Raises:
            InputError: if there is no such phone.
        """
        if phone not in self._first:
            raise InputError(f"no phone {phone!r} in the aligner; it has {', '.join(self.phones)}")
        return range(self._first[phone], self._first[phone] + self.length(phone))


class Graph(NamedTuple):
    """All paths of one utterance. A state is entered from itself, from the state before it where ``chained``, and
    where it is among ``entries`` from ``sources`` with log-probabilities ``weights``.

    Attributes:
        states: (N,) which state of the :class:`Topology` each one is.
        segment: (N,) which phone of the utterance it belongs to, counted from 0.
        chained: (N,) whether it may follow the state before it.
        initial: (N,) log-probability of beginning in it.
        final: (N,) log-probability of ending behind it.
        entries: (E,) states that are entered from elsewhere too.
        sources: (E, K) where from; -1 fills up.
        weights: (E, K) with what log-probability, beside that of leaving the source.
        phones: the label of each phone of the utterance, as it was given.
        shortest: frames of the shortest path.
        usual: states of the topology on the path of each word's first pronunciation, without silences.
    """

    states: np.ndarray
    segment: np.ndarray
    chained: np.ndarray
    initial: np.ndarray
    final: np.ndarray
    entries: np.ndarray
    sources: np.ndarray
    weights: np.ndarray
    phones: list[str]
    shortest: int
    usual: np.ndarray


Variants = Sequence[Sequence[tuple[str, str]]]
"""Pronunciations of a word, each a row of (label, acoustic phone)."""


def build_graph(words: Sequence[Variants], topology: Topology, silence: str, silence_probability: float) -> Graph:
    """Build the graph of a sequence of words, with an optional silence before, between and after them.

    Args:
        words: the pronunciations of each word; one is as likely as the other.
        topology: of the phones.
        silence: label of silence.
        silence_probability: of a silence at each of these places.

    Raises:
        InputError: if a word has no pronunciation, or one without phones, or a phone is not in the topology.
    """
    builder = _Builder(topology)
    silent, spoken = np.log(silence_probability), np.log1p(-silence_probability)
    shortest = 0
    usual: list[int] = []
    ends: list[tuple[int, float]] = [(_START, 0.0)]  # states from which the next word is reached, with weights
    for variants in words:
        if not variants or not all(variants):
            raise InputError("a word has no pronunciation")
        pause = builder.chain([(silence, topology.silence)], [(source, w + silent) for source, w in ends])
        reached = [(source, w + spoken) for source, w in ends] + [(pause, 0.0)]
        share = -np.log(len(variants))
        ends = [(builder.chain(phones, [(source, w + share) for source, w in reached]), 0.0) for phones in variants]
        shortest += min(sum(topology.length(phone) for _, phone in phones) for phones in variants)
        usual += [state for _, phone in variants[0] for state in topology.states_of(phone)]
    pause = builder.chain([(silence, topology.silence)], [(source, w + silent) for source, w in ends])
    return builder.finish([(source, w + spoken) for source, w in ends] + [(pause, 0.0)], shortest, usual)


_START = -1


class _Builder:
    def __init__(self, topology: Topology):
        self._topology = topology
        self._states: list[int] = []
        self._segment: list[int] = []
        self._chained: list[bool] = []
        self._labels: list[str] = []
        self._initial: list[tuple[int, float]] = []
        self._entries: list[tuple[int, list[tuple[int, float]]]] = []

    def chain(self, phones: Sequence[tuple[str, str]], sources: Sequence[tuple[int, float]]) -> int:
        """Add phones in a row that are reached from ``sources``; returns their last state."""
        begin = len(self._states)
        for label, phone in phones:
            numbers = self._topology.states_of(phone)
            self._states.extend(numbers)
            self._segment.extend([len(self._labels)] * len(numbers))
            self._chained.extend([True] * len(numbers))
            self._labels.append(label)
        self._chained[begin] = False
        self._initial.extend((begin, weight) for source, weight in sources if source == _START)
        inner = [(source, weight) for source, weight in sources if source != _START]
        if inner:
            self._entries.append((begin, inner))
        return len(self._states) - 1

    def finish(self, ends: Sequence[tuple[int, float]], shortest: int, usual: Sequence[int]) -> Graph:
        size = len(self._states)
        initial = np.full(size, IMPOSSIBLE, dtype=np.float32)
        final = np.full(size, IMPOSSIBLE, dtype=np.float32)
        for values, items in ((initial, self._initial), (final, ends)):
            for state, weight in items:
                values[state] = weight
        width = max((len(sources) for _, sources in self._entries), default=1)
        sources = np.full((len(self._entries), width), -1, dtype=np.int32)
        weights = np.full((len(self._entries), width), IMPOSSIBLE, dtype=np.float32)
        for row, (_, items) in enumerate(self._entries):
            sources[row, : len(items)] = [source for source, _ in items]
            weights[row, : len(items)] = [weight for _, weight in items]
        return Graph(
            np.array(self._states, dtype=np.int32),
            np.array(self._segment, dtype=np.int32),
            np.array(self._chained, dtype=bool),
            initial,
            final,
            np.array([state for state, _ in self._entries], dtype=np.int32),
            sources,
            weights,
            self._labels,
            shortest,
            np.array(usual, dtype=np.int32),
        )

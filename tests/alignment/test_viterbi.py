"""The batched search against one that tries every path, and graphs of words with variants and pauses."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.alignment.aligner import Alignment, GmmAligner
from nemo_speechlm.alignment.graph import Topology, build_graph
from nemo_speechlm.alignment.mixtures import Mixtures
from nemo_speechlm.alignment.viterbi import batch_graphs, is_path, viterbi
from nemo_speechlm.errors import InputError, SkipItem

TOPOLOGY = Topology(("SIL", "a", "b", "c"), "SIL", states=2, silence_states=1)
PAUSE = 0.3


def spelled(word):
    return [(phone, phone) for phone in word]


def all_paths(words):
    """(log-probability of the choices, states) of each way to say words, pauses or not."""
    pauses = itertools.product((False, True), repeat=len(words) + 1)
    for silent, said in itertools.product(pauses, itertools.product(*words)):
        weight = sum(math.log(PAUSE if s else 1 - PAUSE) for s in silent) - sum(math.log(len(v)) for v in words)
        phones = ["SIL"] * silent[0]
        for pause, word in zip(silent[1:], said, strict=True):
            phones += [phone for phone, _ in word] + ["SIL"] * pause
        yield weight, phones, [state for phone in phones for state in TOPOLOGY.states_of(phone)]


def best_by_trying_all(emissions, words, stay):
    """Log-probability of the best path, and its state in each frame."""
    frames = len(emissions)
    best = (-math.inf, None)
    for weight, _, states in all_paths(words):
        for cuts in itertools.combinations(range(1, frames), len(states) - 1):
            lengths = np.diff([0, *cuts, frames])
            path = np.repeat(states, lengths)
            score = weight + emissions[np.arange(frames), path].sum()
            for state, length in zip(states, lengths, strict=True):
                score += (length - 1) * math.log(stay[state]) + math.log(1 - stay[state])
            best = max(best, (score, path.tolist()), key=lambda item: item[0])
    return best


WORD = st.lists(
    st.text("abc", min_size=1, max_size=2).map(spelled), min_size=1, max_size=3, unique_by=lambda w: tuple(w)
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.lists(WORD, min_size=1, max_size=2), st.integers(1, 8)), min_size=1, max_size=3),
    st.integers(0, 10**6),
)
def test_equals_trying_every_path(utterances, seed):
    rng = np.random.default_rng(seed)
    stay = rng.uniform(0.1, 0.9, TOPOLOGY.num_states).astype(np.float32)
    longest = max(frames for _, frames in utterances)
    emissions = rng.normal(-30, 8, (len(utterances), longest, TOPOLOGY.num_states)).astype(np.float32)
    graphs = [build_graph(words, TOPOLOGY, "SIL", PAUSE) for words, _ in utterances]
    lengths = torch.tensor([frames for _, frames in utterances])
    paths, scores = viterbi(torch.from_numpy(emissions), lengths, batch_graphs(graphs), torch.from_numpy(stay))
    for row, (words, frames) in enumerate(utterances):
        score, path = best_by_trying_all(emissions[row, :frames].astype(np.float64), words, stay.astype(np.float64))
        assert bool(is_path(scores)[row]) == (path is not None) == (frames >= graphs[row].shortest)
        if path is not None:
            assert scores[row].item() == pytest.approx(score, abs=1e-3)
            assert graphs[row].states[paths[row, :frames].numpy()].tolist() == path


def test_scores_of_long_utterances_keep_their_digits():
    """Thousands of frames at -80 each: a plain sum in float32 would be off by several."""
    frames = 3000
    generator = torch.Generator().manual_seed(0)
    emissions = -80 + torch.randn(1, frames, TOPOLOGY.num_states, generator=generator)
    stay = torch.full((TOPOLOGY.num_states,), 0.5)
    graph = build_graph([[spelled("ab")]], TOPOLOGY, "SIL", PAUSE)
    path, score = viterbi(emissions, torch.tensor([frames]), batch_graphs([graph]), stay)
    states = torch.from_numpy(graph.states).long()[path[0]]
    moves = int((states[1:] != states[:-1]).sum())
    expected = emissions[0].double()[torch.arange(frames), states].sum() + frames * math.log(0.5)
    pauses = int((states == 0).any()) and [int(states[0] == 0), int(states[-1] == 0)]
    expected += sum(math.log(PAUSE if p else 1 - PAUSE) for p in pauses or [0, 0])
    assert moves <= 5
    assert score.item() == pytest.approx(float(expected), abs=0.5)


def test_no_sound_of_padding_or_neighbours():
    """An utterance's path does not depend on what it is batched with."""
    rng = torch.Generator().manual_seed(1)
    words = [[[spelled("ab"), spelled("c")]], [[spelled("a")], [spelled("bc"), spelled("b")], [spelled("c")]]]
    graphs = [build_graph(w, TOPOLOGY, "SIL", PAUSE) for w in words]
    emissions = torch.randn(2, 40, TOPOLOGY.num_states, generator=rng)
    stay = torch.full((TOPOLOGY.num_states,), 0.6)
    lengths = torch.tensor([17, 40])
    paths, scores = viterbi(emissions, lengths, batch_graphs(graphs), stay)
    for row, length in enumerate(lengths.tolist()):
        alone, score = viterbi(
            emissions[row : row + 1, :length], lengths[row : row + 1], batch_graphs([graphs[row]]), stay
        )
        assert torch.equal(alone[0], paths[row, :length])
        assert score[0].item() == pytest.approx(scores[row].item(), abs=1e-4)


@pytest.fixture
def aligner():
    """Each state is where its number says, on a line: what is aligned can be read off the features."""
    means = torch.arange(TOPOLOGY.num_states, dtype=torch.float32)[:, None, None]
    mixtures = Mixtures(torch.zeros(TOPOLOGY.num_states, 1), means, torch.full_like(means, 0.01))
    return GmmAligner(TOPOLOGY, mixtures, torch.full((TOPOLOGY.num_states,), 0.5), PAUSE)


def sound(*phones):
    """Features of (phone, frames)."""
    rows = [
        TOPOLOGY.states_of(phone)[min(t, len(TOPOLOGY.states_of(phone)) - 1)] for phone, n in phones for t in range(n)
    ]
    return torch.tensor(rows, dtype=torch.float32)[:, None]


@pytest.mark.parametrize(
    "said",
    [
        [("a", 3), ("b", 2), ("c", 5)],
        [("SIL", 4), ("a", 3), ("b", 2), ("c", 5), ("SIL", 1)],
        [("a", 3), ("b", 2), ("SIL", 7), ("c", 5)],
        [("b", 4), ("SIL", 2), ("c", 3), ("SIL", 2)],
    ],
)
def test_finds_pauses_and_variants(aligner, said):
    graph = aligner.graph([[spelled("ab"), spelled("b")], [spelled("c")]])
    (found,) = aligner.align([sound(*said)], [graph])
    assert isinstance(found, Alignment)
    assert [tuple(phone) for phone in found.phones] == said
    assert sum(phone.frames for phone in found.phones) == len(found.states)


def test_reasons(aligner):
    graph = aligner.graph([[spelled("abc")]])
    short, good = aligner.align([sound(("a", 5)), sound(("a", 2), ("b", 2), ("c", 2))], [graph, graph])
    assert isinstance(short, SkipItem)
    assert "too short for the words: 5 frames, 6 needed" in str(short)
    assert isinstance(good, Alignment)
    with pytest.raises(SkipItem, match="no words"):
        aligner.graph([])
    with pytest.raises(InputError, match="no phone 'x' in the aligner; it has SIL, a, b, c"):
        aligner.graph([[spelled("ax")]])
    with pytest.raises(InputError, match="no pronunciation"):
        aligner.graph([[spelled("a")], []])

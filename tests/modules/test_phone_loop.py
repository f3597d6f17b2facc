"""Viterbi over the phone loop, against trying out every path."""

import math
from itertools import combinations, pairwise, product

import numpy as np
import pytest
import torch

from nemo_speechlm.modules.phone_loop import IMPOSSIBLE, PhoneLoop, _Entering

OUTPUTS = torch.tensor([[0, 1], [2, 3], [0, 3]])
"""Three units of two parts; the third shares a class with each of the others."""


def make_loop(min_duration=3, lm_weight=0.7, penalty=-0.3, seed=0):
    loop = PhoneLoop(OUTPUTS, min_duration, lm_weight, penalty)
    bigram = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
    bigram[1, 2] = -math.inf
    loop.set_bigram(bigram)
    return loop


def best_within(loop, scores, unit, start, stop):
    """Score of the best way through a unit's states in the frames from start to stop."""
    N = loop.min_duration
    outputs = [OUTPUTS[unit, state * 2 // N] for state in range(N)]
    found = -math.inf
    for cuts in combinations(range(start + 1, stop), N - 1):
        borders = [start, *cuts, stop]
        score = sum(
            float(scores[a:b, output].sum()) for output, (a, b) in zip(outputs, pairwise(borders), strict=True)
        )
        found = max(found, score)
    return found


def by_hand(loop, scores):
    """(score, units, durations) of the best of all paths."""
    T, V = len(scores), len(OUTPUTS)
    best = (-math.inf, [], [])
    for count in range(1, T // loop.min_duration + 1):
        for cuts in combinations(range(1, T), count - 1):
            spans = list(pairwise([0, *cuts, T]))
            if min(b - a for a, b in spans) < loop.min_duration:
                continue
            for units in product(range(V), repeat=count):
                score = loop.penalty * count
                score += sum(loop.lm_weight * float(loop.bigram[a, b]) for a, b in pairwise([V, *units, V]))
                score += sum(best_within(loop, scores, u, a, b) for u, (a, b) in zip(units, spans, strict=True))
                best = max(best, (score, list(units), [b - a for a, b in spans]))
    return best


@pytest.mark.parametrize("min_duration", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_finds_the_best_path(min_duration, seed):
    loop = make_loop(min_duration, seed=seed)
    scores = 2 * torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(seed + 100))
    (found,) = loop(scores, torch.tensor([7]))
    score, units, durations = by_hand(loop, scores[0])
    assert found.score == pytest.approx(score, abs=1e-4)
    assert (found.units, found.durations) == (units, durations)
    assert (1, 2) not in pairwise(found.units)


def test_an_utterance_does_not_depend_on_its_batch():
    loop = make_loop()
    lengths = torch.tensor([40, 7, 23, 1, 2])
    scores = 3 * torch.randn(5, 40, 4, generator=torch.Generator().manual_seed(1))
    together = loop(scores, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = loop(scores[row : row + 1, :length], lengths[row : row + 1])
        assert alone == [together[row]]
        assert sum(together[row].durations) == length
    assert len(together[0].units) > 3
    assert len(together[3].units) == len(together[4].units) == 1  # shorter than a unit


def words_loop(units=9, seed=0):
    """Units that begin (0-2), go on in (3-5) or end (6-8) a word; others never follow each other."""
    generator = torch.Generator().manual_seed(seed)
    loop = PhoneLoop(torch.arange(2 * units).view(units, 2), 3, 0.9, -0.1)
    kind = torch.tensor([*(i * 3 // units for i in range(units)), 3])
    legal = torch.zeros(4, 4, dtype=torch.bool)
    for before, after in [(3, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 0), (2, 3)]:
        legal[before, after] = True
    loop.set_bigram(torch.randn(units + 1, units + 1, generator=generator).where(legal[kind][:, kind], -math.inf))
    return loop


def plain_viterbi(loop, scores):
    """The best path of an utterance: units and durations. All pairs are looked at, and where each maximum came from
    is remembered."""
    table = np.where(np.isneginf(loop.bigram), np.float32(-1e9), loop.bigram * np.float32(loop.lm_weight))
    within, N = table[:-1, :-1].T + np.float32(loop.penalty), loop.min_duration
    outputs = loop.outputs[:, torch.arange(N) * loop.outputs.shape[1] // N]
    frames = scores[:, outputs].numpy()
    path = np.full(outputs.shape, np.float32(-1e9))
    path[:, 0] = table[-1, :-1] + np.float32(loop.penalty)
    path += frames[0]
    moves, sources = [np.zeros(path.shape, bool)], [None]
    for frame in frames[1:]:
        sums = path[:, -1] + within
        arriving = np.concatenate((sums.max(1, keepdims=True), path[:, :-1]), 1)
        moves.append(arriving > path)
        sources.append(sums.argmax(1))
        path = np.maximum(arriving, path) + frame
    unit, state, stop, found = int((path[:, -1] + table[:-1, -1]).argmax()), N - 1, len(frames), []
    for t in range(len(frames) - 1, 0, -1):
        if moves[t][unit, state]:
            state -= 1
            if state < 0:
                found.append((unit, stop - t))
                unit, state, stop = int(sources[t][unit]), N - 1, t
    found.append((unit, stop))
    return [u for u, _ in reversed(found)], [d for _, d in reversed(found)]


@pytest.mark.parametrize("seed", range(4))
def test_leaving_out_what_is_forbidden_changes_nothing(seed):
    loop = words_loop(seed=seed)
    scores = 2 * torch.randn(3, 90, 18, generator=torch.Generator().manual_seed(seed + 50))
    lengths = torch.tensor([90, 71, 64])
    found = loop(scores, lengths)
    units = loop._reachable()
    assert found == loop._search(scores, lengths, units, apart=False) == loop._search(scores, lengths, units, True)
    for row, length, each in zip(scores, lengths.tolist(), found, strict=True):
        assert (each.units, each.durations) == plain_viterbi(loop, row[:length])
    entering = _Entering(loop._transitions(units, scores)[0], 3, True)
    assert sorted(table.numel() for _, _, table in entering._groups) == [9, 36]  # of 81 pairs


def test_too_short_for_any_path():
    """A word needs two units of 3 frames: 5 frames are the least impossible path, as if nothing were left out."""
    loop = words_loop()
    scores = torch.randn(2, 40, 18, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([5, 40])
    short, long = loop(scores, lengths)
    assert short.score < IMPOSSIBLE / 2 < -1e6 < long.score
    assert [short, long] == loop._search(scores, lengths, loop._reachable(), apart=False)
    assert sum(short.durations) == 5


def test_weights_do_what_they_say():
    scores = torch.randn(1, 60, 4, generator=torch.Generator().manual_seed(2))
    counts = [len(make_loop(penalty=penalty)(scores, torch.tensor([60]))[0].units) for penalty in (-20, 0, 20)]
    assert counts[0] < counts[1] < counts[2] == 20
    # with no weight, the bigram still says what is impossible
    loop = make_loop(lm_weight=0.0, penalty=0.0)
    (found,) = loop(scores, torch.tensor([60]))
    assert (1, 2) not in pairwise(found.units)
    loop.bigram[:] = torch.where(loop.bigram > -math.inf, 0.0, -math.inf)
    assert loop(scores, torch.tensor([60]))[0] == found


def test_units_that_never_occur_are_not_found():
    loop = make_loop()
    loop.bigram[:, 0] = -math.inf
    scores = torch.zeros(1, 30, 4)
    scores[:, :, :2] = 5.0
    assert 0 not in loop(scores, torch.tensor([30]))[0].units


def test_wrong_shapes():
    with pytest.raises(ValueError, match="2 parts"):
        PhoneLoop(OUTPUTS, min_duration=1)
    with pytest.raises(ValueError, match=r"expected \(4, 4\)"):
        make_loop().set_bigram(torch.zeros(3, 3))
    loop = make_loop()
    loop.bigram[:] = -math.inf
    with pytest.raises(ValueError, match="no unit"):
        loop(torch.zeros(1, 5, 4), torch.tensor([5]))

"""Viterbi over the phone loop, against trying out every path."""

import math
from itertools import combinations, pairwise, product

import pytest
import torch

from nemo_speechlm.modules.phone_loop import PhoneLoop

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

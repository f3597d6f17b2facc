"""The text branch of MAESTRO, part by part."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.modules.durations import frame_owners
from nemo_speechlm.modules.sinusoids import alternating_sinusoids
from nemo_speechlm.modules.text_branch import (
    ConvTextEncoder,
    LightweightDurations,
    Refiner,
    places_in_runs,
    resample,
    token_frames,
)

LENGTHS = torch.tensor([5, 3])


def inside(length, size):
    return slice(None), slice(0, length), slice(0, size)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_resample_against_a_loop():
    states, durations = torch.randn(2, 3, 4), torch.tensor([[2, 0, 3], [1, 2, 0]])
    out, lengths = resample(states, durations)
    assert lengths.tolist() == [5, 3]
    table = alternating_sinusoids(3, 4, states)
    for b in range(2):
        rows = [states[b, u] + table[k] for u in range(3) for k in range(int(durations[b, u]))]
        torch.testing.assert_close(out[b, : len(rows)], torch.stack(rows))
        assert (out[b, len(rows) :] == 0).all()


def test_places_in_runs():
    durations = torch.tensor([[2, 0, 3, 1], [4, 2, 1, 1]])
    places = places_in_runs(durations, *frame_owners(durations))
    assert places.tolist() == [[0, 1, 0, 1, 2, 0, 0, 0], [0, 1, 2, 3, 0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (lambda: ConvTextEncoder(11, 8, 12, 2, 3, 1, 2, 16), torch.randint(0, 11, (2, 5))),
        (lambda: LightweightDurations(8, 2, 2), torch.randn(2, 5, 8)),
        (lambda: Refiner(8, 2, 2, 5), torch.randn(2, 5, 8)),
    ],
)
def test_a_row_does_not_depend_on_the_others(make, rows):
    module = make().eval()
    together, alone = module(rows, LENGTHS), module(rows[1:, :3], LENGTHS[1:])
    torch.testing.assert_close(together[1:, :3], alone, rtol=1e-4, atol=1e-5)
    assert together.shape[:2] == (2, 5)


def test_a_refiner_knows_where_frames_stand():
    same = torch.ones(1, 6, 8)
    placed, unplaced = (
        Refiner(8, 1, 2, 3, positions=positions).eval()(same, torch.tensor([6])) for positions in (True, False)
    )
    assert not torch.allclose(placed[0, 2], placed[0, 3], atol=1e-3)
    assert torch.allclose(unplaced[0, 2], unplaced[0, 3], atol=1e-4)


@st.composite
def paths(draw):
    frames = draw(st.integers(1, 12))
    tokens = draw(st.integers(1, 12))
    path = sorted(draw(st.lists(st.integers(0, frames - 1), min_size=tokens, max_size=tokens)))
    return frames, path


@given(paths(), st.integers(0, 3))
def test_token_frames(drawn, padding):
    frames, path = drawn
    rows = torch.tensor([path + [-1] * padding])
    durations = token_frames(rows, torch.tensor([frames]), torch.tensor([len(path)]))[0].tolist()
    assert sum(durations) == frames
    assert durations[len(path) :] == [0] * padding
    if frames >= len(path):
        assert min(durations[: len(path)]) >= 1
    begins = [sum(durations[:u]) for u in range(len(path))]
    apart = all(b > a for a, b in pairwise(path))
    if apart:  # each token at a frame of its own: nothing is moved but the beginning of the first
        assert begins[1:] == path[1:]

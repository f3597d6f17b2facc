"""FFT blocks, duration predictor and length regulator: against plain versions, and untouched by padding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.modules import DurationPredictor, FFTransformer
from nemo_speechlm.modules.durations import durations_of, repeat_states
from nemo_speechlm.modules.fast_speech import SinusoidalPositions, same_conv

LENGTHS = torch.tensor([9, 4, 1])


def stack(**overrides):
    torch.manual_seed(0)
    sizes = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_ff": 24, "kernel": 5}
    return FFTransformer(**(sizes | overrides)).eval()


def modules(**overrides):
    torch.manual_seed(1)
    return [stack(**overrides), DurationPredictor(16, d_hidden=12, **overrides).eval()]


@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_a_batch_does_not_matter(index):
    module = modules()[index]
    x = torch.randn(3, 9, 16) * 3
    together = module(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = module(x[row : row + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[row : row + 1, :length], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", [0, 1])
@torch.no_grad()
def test_in_the_released_way_it_does(index):
    module = modules(released_padding=True)[index]
    x = torch.randn(3, 9, 16) * 3
    together = module(x, LENGTHS)
    alone = module(x[1:2, :4], LENGTHS[1:2])
    assert (together[1:2, :4] - alone).abs().max() > 1e-3


@torch.no_grad()
def test_an_empty_row_is_no_nan():
    assert stack()(torch.randn(2, 3, 16), torch.tensor([3, 0])).isfinite().all()


def test_gradients_do_not_come_from_padding():
    x = torch.randn(3, 9, 16, requires_grad=True)
    out = stack()(x, LENGTHS)
    sum(out[row, :length].square().sum() for row, length in enumerate(LENGTHS.tolist())).backward()
    for row, length in enumerate(LENGTHS.tolist()):
        assert not x.grad[row, length:].any()
        assert x.grad[row, :length].any()


def test_positions():
    table = SinusoidalPositions(6)(4)
    for frame in range(4):
        for i in range(3):
            angle = (frame + 2) / 10000 ** (i / 2)
            assert table[frame, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[frame, 3 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any), min_size=1, max_size=4))
def test_states_are_repeated(rows):
    width = max(map(len, rows))
    durations = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    states = torch.randn(len(rows), width, 3)
    frames, lengths = repeat_states(states, durations)
    assert lengths.tolist() == list(map(sum, rows))
    assert frames.shape[1] == max(map(sum, rows))
    for row, given_durations in enumerate(rows):
        expected = [states[row, p] for p, duration in enumerate(given_durations) for _ in range(duration)]
        assert torch.equal(frames[row, : len(expected)], torch.stack(expected))
        assert not frames[row, len(expected) :].any()


def test_predicted_durations_are_whole_frames():
    said = torch.tensor([[0.0, 1.0, 2.49, 7.4], [-0.4, 3.6, 9.0, 9.0]])
    lengths = torch.tensor([4, 2])
    assert durations_of(said.log1p(), lengths).tolist() == [[0, 1, 2, 7], [0, 4, 0, 0]]
    assert durations_of(said.log1p(), lengths, speed=2.0).tolist() == [[0, 0, 1, 4], [0, 2, 0, 0]]


def test_what_cannot_be_built():
    with pytest.raises(ValueError, match="kernel of a convolution is 4, expected an odd"):
        same_conv(2, 2, 4)
    with pytest.raises(ValueError, match="16 is not a multiple of n_heads 3"):
        stack(n_heads=3)
    with pytest.raises(ValueError, match="d_model is 5"):
        SinusoidalPositions(5)


def test_a_phone_never_lasts_less_than_no_frame():
    """What is predicted has no lower bound; a negative duration would take frames of the phones before."""
    said = torch.tensor([[-0.6, 3.0, -0.95]]).log1p()
    assert durations_of(said, torch.tensor([3])).tolist() == [[0, 3, 0]]
    assert durations_of(said, torch.tensor([3]), speed=0.5, longest=4).tolist() == [[0, 4, 0]]

"""Decoding token by token gives what scoring the whole text gives, with our decoder and with NeMo's."""

import pytest
import torch

from nemo_speechlm.modules import NemoDecoder, RelativeDecoder
from nemo_speechlm.modules.decoder.relative import PAD

B, T, U, E, V = 3, 9, 11, 24, 13
SIZES = {"vocab_size": V, "n_layers": 2, "d_model": E, "n_heads": 4, "d_ff": 20}


def relative(**changes):
    return RelativeDecoder(**{**SIZES, "max_distance": 4, **changes})


DECODERS = {
    "post-norm": relative,
    "pre-norm": lambda: relative(pre_norm=True),
    "no positions": lambda: relative(max_distance=0, absolute_positions=False),
    "tied, other width": lambda: relative(tie_embeddings=True, encoder_dim=10),
    "nemo": lambda: NemoDecoder(**SIZES),
    "nemo, pre-norm": lambda: NemoDecoder(**SIZES, pre_norm=True),
}


@pytest.fixture(params=DECODERS)
def decoder(request):
    torch.manual_seed(0)
    return DECODERS[request.param]().eval()


def batch(decoder):
    lengths = torch.tensor([T, 4, 1])
    padding = torch.arange(T) >= lengths.unsqueeze(1)
    tokens = torch.randint(2, V, (B, U))
    return tokens, torch.randn(B, T, decoder.encoder_dim), padding


@torch.no_grad()
def test_steps_are_the_whole(decoder):
    tokens, encoded, padding = batch(decoder)
    whole = decoder(tokens, encoded, padding)
    assert whole.shape == (B, U, V)
    state = decoder.begin(encoded, padding)
    for place in range(U):
        logits, state = decoder.step(tokens[:, place], state)
        torch.testing.assert_close(logits, whole[:, place], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_hypotheses_change_places_and_utterances_leave(decoder):
    tokens, encoded, padding = batch(decoder)
    state = decoder.begin(encoded, padding)
    _, state = decoder.step(tokens[:, 0], state)
    # Each utterance gets two hypotheses: one goes on as in `tokens`, the other does not.
    rows = torch.arange(B).repeat_interleave(2)
    state = decoder.select(state, rows)
    second = torch.stack((tokens[:, 1], tokens[:, 5]), dim=1).reshape(-1)
    _, state = decoder.step(second, state)
    # Then only utterances 2 and 0 stay, with their hypotheses swapped.
    keep = torch.tensor([2, 0])
    state = decoder.select(state, torch.tensor([5, 4, 1, 0]), keep)
    logits, _ = decoder.step(tokens[keep, 2].repeat_interleave(2), state)
    for row, utterance in enumerate((2, 0)):
        for place, middle in enumerate((5, 1)):
            text = tokens[utterance, [0, middle, 2]].unsqueeze(0)
            expected = decoder(text, encoded[[utterance]], padding[[utterance]])[0, -1]
            torch.testing.assert_close(logits[2 * row + place], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_does_not_reach_anything(decoder):
    tokens, encoded, padding = batch(decoder)
    whole = decoder(tokens, encoded, padding)
    noise = encoded.masked_scatter(padding.unsqueeze(2), torch.randn(int(padding.sum()) * encoded.shape[2]))
    padded = torch.cat((tokens, torch.full((B, 3), PAD)), dim=1)
    torch.testing.assert_close(decoder(padded, noise, padding)[:, :U], whole, rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_from_later_tokens(decoder):
    tokens, encoded, padding = batch(decoder)
    encoded.requires_grad_()
    seen = decoder(tokens, encoded, padding)[:, 4]
    changed = tokens.clone()
    changed[:, 5:] = 3
    torch.testing.assert_close(decoder(changed, encoded, padding)[:, 4], seen, rtol=1e-5, atol=1e-6)
    seen.sum().backward()
    assert encoded.grad.abs().sum() > 0
    assert encoded.grad[padding].abs().sum() == 0


def test_longer_than_there_are_positions(decoder):
    decoder.max_length = 4
    tokens, encoded, padding = batch(decoder)
    with pytest.raises(ValueError, match="max_"):
        decoder(tokens, encoded, padding)


def test_what_nemos_decoder_lacks():
    with pytest.raises(ValueError, match="layerdrop"):
        NemoDecoder(**SIZES, layerdrop=0.1)

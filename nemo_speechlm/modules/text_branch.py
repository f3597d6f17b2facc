"""MAESTRO's way from a text to states like those of speech (arXiv 2204.03409, section 2.2).

Text encoder, duration model, Resampler and Refiner.

Axis legend: B texts, U tokens, T frames, D width.
"""

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.kernels.norm import layer_norm
from nemo_speechlm.modules.attention import RelativePositions, RelativeSelfAttention
from nemo_speechlm.modules.durations import frame_owners, repeat_owned
from nemo_speechlm.modules.fast_speech import same_conv, zero_padded
from nemo_speechlm.modules.lightweight_convolution import LightweightBlock
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.sinusoids import alternating_sinusoids
from nemo_speechlm.modules.transformer import RelativeTransformer


class ConvTextEncoder(NeuralModule):
    """Tokens to states: embedding, convolutions, and transformer layers with relative positions.

    Args:
        num_tokens: of the vocabulary.
        d_model: D, of the states.
        channels: of embedding and convolutions.
        n_convolutions: how many, each with layer norm, ReLU and dropout.
        kernel: of the convolutions, odd.
        n_layers: of the transformer.
        n_heads: of the transformer.
        d_ff: of the transformer.
        dropout: after convolutions, and in the transformer.
    """

    def __init__(
        self,
        num_tokens: int,
        d_model: int,
        channels: int = 512,
        n_convolutions: int = 3,
        kernel: int = 5,
        n_layers: int = 6,
        n_heads: int = 8,
        d_ff: int | None = None,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.tokens = nn.Embedding(num_tokens, channels)
        self.convolutions = nn.ModuleList(same_conv(channels, channels, kernel) for _ in range(n_convolutions))
        self.norms = nn.ModuleList(layer_norm(channels) for _ in range(n_convolutions))
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(channels, d_model)
        self.transformer = RelativeTransformer(
            n_layers, d_model, n_heads, d_ff or 4 * d_model, pre_norm=True, dropout=dropout, attention_dropout=dropout
        )

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (B, U) and lengths (B,) -> states (B, U, D), which mean nothing where padded."""
        padding = padding_mask(lengths, tokens.shape[1])
        x = self.tokens(tokens)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            convolved = convolution(zero_padded(x, padding).transpose(1, 2)).transpose(1, 2)
            x = self.dropout(F.relu(norm(convolved)))
        return self.transformer(zero_padded(self.projection(x), padding), padding)[0]


class LightweightDurations(NeuralModule):
    """The duration model: the logarithm of one more than each token's frames, by lightweight convolutions.

    Args:
        d_model: D.
        n_blocks: of :class:`LightweightBlock`.
        heads: of the convolutions.
        kernel: of the convolutions, odd.
        dropout: in the blocks.
    """

    def __init__(self, d_model: int, n_blocks: int = 4, heads: int = 8, kernel: int = 3, dropout: float = 0.1):
        super().__init__()
        self.blocks = nn.ModuleList(
            LightweightBlock(d_model, heads, kernel, expansion=0, dropout=dropout) for _ in range(n_blocks)
        )
        self.norm = layer_norm(d_model)
        self.projection = nn.Linear(d_model, 1)

    def forward(self, x_BUD: Tensor, lengths: Tensor) -> Tensor:
        """States (B, U, D) and lengths (B,) -> (B, U) log(1 + frames)."""
        padding = padding_mask(lengths, x_BUD.shape[1])
        x = x_BUD
        for block in self.blocks:
            x = block(x, padding)
        return self.projection(self.norm(x)).squeeze(2)


def resample(states_BUD: Tensor, durations_BU: Tensor) -> tuple[Tensor, Tensor]:
    """The Resampler: each token's state, as often as it has frames, with the place in its run added.

    Args:
        states_BUD: of tokens.
        durations_BU: int64 frames, 0 where padded.

    Returns:
        states (B, T, D), zero behind the end, and the frames (B,).
    """
    owners, lengths = frame_owners(durations_BU)
    states = repeat_owned(states_BUD, owners, lengths)
    places = places_in_runs(durations_BU, owners, lengths)
    table = alternating_sinusoids(max(1, int(durations_BU.max())), states.shape[2], states)
    inside = ~padding_mask(lengths, states.shape[1])
    return states + table[places] * inside.unsqueeze(2), lengths


def places_in_runs(durations_BU: Tensor, owners_BT: Tensor, lengths: Tensor) -> Tensor:
    """How many frames of its token stand before each frame, (B, T) int64; 0 behind the end.

    Args:
        durations_BU: frames of each token.
        owners_BT: the token of each frame (:func:`frame_owners`), as the next.
        lengths: (B,) frames.
    """
    T = owners_BT.shape[1]
    begins = (durations_BU.cumsum(1) - durations_BU).gather(1, owners_BT)
    places = torch.arange(T, device=begins.device) - begins
    return places.masked_fill(padding_mask(lengths, T), 0)


class Refiner(NeuralModule):
    """Resampled states to states like those of the speech encoder: self-attention and lightweight convolutions.

    Args:
        d_model: D.
        n_layers: of an attention and a convolution each.
        n_heads: of both.
        kernel: of the convolutions, odd.
        dropout: after each of both.
        positions: add the sinusoidal positions of frames to the input: the speech encoder's states bear them.
        max_distance: of the attention's relative positions, in frames.
    """

    def __init__(
        self,
        d_model: int,
        n_layers: int = 2,
        n_heads: int = 8,
        kernel: int = 17,
        dropout: float = 0.1,
        positions: bool = True,
        max_distance: int = 160,
    ):
        super().__init__()
        self.positions = positions
        self.relative_positions = RelativePositions(d_model // n_heads, max_distance)
        self.norms = nn.ModuleList(layer_norm(d_model) for _ in range(n_layers))
        self.attentions = nn.ModuleList(
            RelativeSelfAttention(d_model, n_heads, dropout, normalize_positions=True) for _ in range(n_layers)
        )
        self.convolutions = nn.ModuleList(
            LightweightBlock(d_model, n_heads, kernel, expansion=0, dropout=dropout) for _ in range(n_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.norm = layer_norm(d_model)
        self.projection = nn.Linear(d_model, d_model)

    def forward(self, x_BTD: Tensor, lengths: Tensor) -> Tensor:
        """Resampled states (B, T, D) and frames (B,) -> (B, T, D), zero behind the end."""
        T, D = x_BTD.shape[1:]
        padding = padding_mask(lengths, T)
        rows = self.relative_positions.rows(T)
        x = x_BTD + alternating_sinusoids(T, D, x_BTD) if self.positions else x_BTD
        for norm, attention, convolution in zip(self.norms, self.attentions, self.convolutions, strict=True):
            x = x + self.dropout(attention(norm(zero_padded(x, padding)), rows, padding))
            x = convolution(x, padding)
        return zero_padded(self.projection(self.norm(x)), padding)


def token_frames(frames_BU: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
    """How many frames each token lasts, of the frames at which a lattice's best path emits them.

    A token begins at its frame and lasts until the next one begins; the first one begins with the utterance. Where an
    utterance has as many frames as tokens, each token gets one at least: a path may emit several at one frame.

    Args:
        frames_BU: int64, not decreasing along a row; what stands in padding does not matter.
        lengths: (B,) frames of the utterances.
        targets: (B,) tokens.

    Returns:
        (B, U) int64, 0 in padding; a row's sum is its frames.
    """
    U = frames_BU.shape[1]
    place = torch.arange(U, device=frames_BU.device)
    padding = padding_mask(targets, U)
    enough = (lengths >= targets).unsqueeze(1)
    # Strictly increasing: x[u] - u must not decrease; and u tokens must have room behind.
    spread = (frames_BU - place).masked_fill(padding, -U).cummax(1).values + place
    latest = (lengths - targets).unsqueeze(1) + place
    begins = torch.where(enough, torch.minimum(spread.clamp(min=0), latest), frames_BU)
    begins = torch.maximum(begins, torch.where(enough, place, torch.zeros_like(place)))
    begins = begins.masked_fill(place == 0, 0)
    begins = torch.where(padding, lengths.unsqueeze(1), begins)
    ends = torch.cat([begins[:, 1:], lengths.unsqueeze(1)], 1)
    return (ends - begins).masked_fill(padding, 0)

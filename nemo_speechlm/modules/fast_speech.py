"""Feed-forward transformer blocks of FastSpeech (arXiv 1905.09263, section 3.1).

Axis legend: B sentences, P phones, T frames (or phones, where a block does not care), D width, H heads.

NeMo's FastPitch has such blocks too, but its attention has no biases and its positions are other ones, so the
released text-to-unit model cannot be put into them.
"""

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.modules.attention import MultiHeadAttention
from nemo_speechlm.modules.full_width import FullWidth
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.sinusoids import fairseq_rates, fairseq_sinusoids

_FIRST_POSITION = 2
"""The position of the first frame: fairseq counts on from its padding index, 1."""


class SinusoidalPositions(FullWidth):
    """Sines, then cosines, of the position (fairseq's layout); nothing where padded.

    Args:
        d_model: D, an even number of at least 4.
    """

    rates: Tensor

    def __init__(self, d_model: int):
        super().__init__()
        if d_model < 4 or d_model % 2:
            raise ValueError(f"SinusoidalPositions: d_model is {d_model}, expected an even number of at least 4")
        self.d_model = d_model
        self.register_buffer("rates", fairseq_rates(d_model), persistent=False)

    def forward(self, num_frames: int) -> Tensor:
        """(num_frames, D) fp32."""
        positions = torch.arange(_FIRST_POSITION, num_frames + _FIRST_POSITION, device=self.rates.device)
        return fairseq_sinusoids(positions, self.d_model, self.rates)


class SelfAttention(MultiHeadAttention):
    """Multi-head self-attention without positions."""

    def forward(self, x_BTD: Tensor, key_mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); ``key_mask`` (B, 1, 1, T) bool is False where a key is padding."""
        q, k, v = (self.heads(proj(x_BTD)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask, dropout_p=self.dropped)
        return self.out_proj(context.transpose(1, 2).reshape(x_BTD.shape))


class FFTBlock(nn.Module):
    """Self-attention and two convolutions, each followed by a layer norm over the sum with its input.

    Args:
        d_model: D.
        n_heads: H.
        d_ff: channels between the convolutions.
        kernel: of both convolutions, odd.
        dropout: after the convolutions.
        attention_dropout: on attention weights.
    """

    def __init__(
        self, d_model: int, n_heads: int, d_ff: int, kernel: int, dropout: float = 0.1, attention_dropout: float = 0.1
    ):
        super().__init__()
        self.self_attn = SelfAttention(d_model, n_heads, attention_dropout)
        self.self_attn_norm = nn.LayerNorm(d_model)
        self.conv1 = same_conv(d_model, d_ff, kernel)
        self.conv2 = same_conv(d_ff, d_model, kernel)
        self.final_norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, key_mask: Tensor | None, conv_padding: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            x_BTD: the input.
            key_mask: (B, 1, 1, T) bool, False where a key is padding; None where nothing is.
            conv_padding: (B, T) bool, True where convolutions are to see zeros; None to let them see what is there.
        """
        x = self.self_attn_norm(x_BTD + self.self_attn(x_BTD, key_mask))
        hidden = F.relu(self.conv1(zero_padded(x, conv_padding).transpose(1, 2)))
        if conv_padding is not None:
            hidden = hidden.masked_fill(conv_padding.unsqueeze(1), 0.0)
        return self.final_norm(x + self.dropout(self.conv2(hidden).transpose(1, 2)))


class FFTransformer(NeuralModule):
    """A stack of :class:`FFTBlock` over scaled sinusoidal positions: the encoder of phones, and the decoder of units.

    Args:
        n_layers: number of blocks.
        d_model: width D.
        n_heads: attention heads.
        d_ff: channels between the convolutions of a block.
        kernel: of the convolutions, odd.
        dropout: after the convolutions of a block.
        attention_dropout: on attention weights.
        input_dropout: after the positions.
        released_padding: let convolutions see what padded frames hold, as the released code does: a sentence's
            states then depend on its batch.
    """

    def __init__(
        self,
        n_layers: int,
        d_model: int,
        n_heads: int,
        d_ff: int,
        kernel: int = 9,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        input_dropout: float = 0.0,
        released_padding: bool = False,
    ):
        super().__init__()
        self.d_model, self.released_padding = d_model, released_padding
        self.positions = SinusoidalPositions(d_model)
        self.position_scale = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(input_dropout)
        self.layers = nn.ModuleList(
            FFTBlock(d_model, n_heads, d_ff, kernel, dropout, attention_dropout) for _ in range(n_layers)
        )

    def forward(self, x_BTD: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) and lengths (B,) -> (B, T, D).

        Outputs at padded frames are meaningless unless ``released_padding``.
        """
        T = x_BTD.shape[1]
        padding = padding_mask(lengths, T)
        positions = self.positions(T).type_as(x_BTD).masked_fill(padding.unsqueeze(2), 0.0)
        x = self.dropout(x_BTD + self.position_scale * positions)
        # A row that is all padding must not turn into NaN: let it attend to itself.
        key_mask = (~padding | padding.all(1, keepdim=True))[:, None, None, :]
        conv_padding = None if self.released_padding else padding
        for layer in self.layers:
            x = layer(x, key_mask, conv_padding)
        return x


def same_conv(in_channels: int, out_channels: int, kernel: int) -> nn.Conv1d:
    """A convolution that keeps the number of frames."""
    if kernel % 2 == 0:
        raise ValueError(f"the kernel of a convolution is {kernel}, expected an odd number")
    return nn.Conv1d(in_channels, out_channels, kernel, padding=kernel // 2)


def zero_padded(x_BTD: Tensor, padding: Tensor | None) -> Tensor:
    """States (B, T, D) with zeros where ``padding`` (B, T) is True."""
    return x_BTD if padding is None else x_BTD.masked_fill(padding.unsqueeze(2), 0.0)

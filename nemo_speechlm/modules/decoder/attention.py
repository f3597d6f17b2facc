"""Attention of a decoder that writes one token after the other.

Axis legend: B utterances, N hypotheses (B times the beam), U tokens, T frames, D decoder width, E encoder width,
H heads, K width of a head, R rows of the position table.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nemo_speechlm.modules.attention import MultiHeadAttention, RelativePositions, RelativeSelfAttention

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each (batch, H, length, K)."""


class CausalSelfAttention(RelativeSelfAttention):
    """:class:`RelativeSelfAttention` in which a token sees itself and those before it, with a cache for decoding.

    A decoder's table is short (the released one has 48 rows), so queries meet all of its rows and the scores are
    gathered by distance.
    """

    def forward(  # type: ignore[override]
        self, x_NUD: Tensor, positions: RelativePositions | None, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Attend from new tokens to all so far.

        Args:
            x_NUD: (N, U, D), the tokens behind those of ``past``.
            positions: the table of relative positions, or None for no positions.
            past: keys and values of the tokens before; None where there are none.

        Returns:
            (N, U, D), and the keys and values of all tokens.
        """
        N, U, D = x_NUD.shape
        q, k, v = (self.heads(proj(x_NUD)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        total = k.shape[2]
        distance = torch.arange(total - U, total, device=q.device).unsqueeze(1) - torch.arange(total, device=q.device)
        bias: Tensor | None = None
        if U > 1:
            bias = torch.zeros_like(distance, dtype=q.dtype).masked_fill(distance < 0, -torch.inf)
        if positions is not None:
            rows_RK = positions.table.weight
            if self.norm_k is not None:
                rows_RK = self.norm_k(rows_RK)
            scores_NHUR = torch.matmul(q * q.shape[-1] ** -0.5, rows_RK.t().type_as(q))
            limit = positions.max_distance
            index = (distance.clamp(-limit, limit - 1) + limit).expand(N, self.n_heads, U, total)
            relative = scores_NHUR.gather(3, index)
            bias = relative if bias is None else relative + bias
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=self.dropped)
        return self.out_proj(context.transpose(1, 2).reshape(N, U, D)), (k, v)


class CrossAttention(MultiHeadAttention):
    """Multi-head attention from tokens to an encoder's states.

    Hypotheses of one utterance share its keys and values: they are queries of the same row, and nothing is repeated.

    Args:
        d_model: D.
        n_heads: H.
        encoder_dim: E.
        dropout: on the attention weights.
    """

    def __init__(self, d_model: int, n_heads: int, encoder_dim: int, dropout: float = 0.0):
        super().__init__(d_model, n_heads, dropout, encoder_dim)

    def keys_values(self, encoded_BTE: Tensor) -> KeysValues:
        """What tokens attend to, computed once per utterance."""
        return self.heads(self.k_proj(encoded_BTE)), self.heads(self.v_proj(encoded_BTE))

    def forward(self, x_NUD: Tensor, source: KeysValues, mask: Tensor | None) -> Tensor:
        """Attend from (N, U, D) to the states of each hypothesis's utterance.

        Args:
            x_NUD: tokens; hypotheses of one utterance stand together.
            source: from :meth:`keys_values`, of B utterances; N is a multiple of B.
            mask: (B, 1, 1, T) float, -inf where padded; None where nothing is.
        """
        N, U, D = x_NUD.shape
        k, v = source
        q = self.q_proj(x_NUD).view(len(k), -1, self.n_heads, D // self.n_heads).transpose(1, 2)
        context = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask is None else mask.type_as(q),
            dropout_p=self.dropped,
        )
        return self.out_proj(context.transpose(1, 2).reshape(N, U, D))

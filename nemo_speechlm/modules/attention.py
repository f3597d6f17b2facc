"""Self-attention with the relative positions of SpeechLM.

Axis legend: B batch, T frames, D model width, H heads, K width of a head, R rows of the position table.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RelativePositions(nn.Module):
    """Table of relative positions, one for all layers of a transformer.

    Row ``clamp(i - j, -max_distance, max_distance - 1) + max_distance`` stands for key j seen from query i.

    Args:
        head_dim: K.
        max_distance: frames beyond which all positions look alike.
    """

    def __init__(self, head_dim: int, max_distance: int = 160):
        super().__init__()
        self.max_distance = max_distance
        self.table = nn.Embedding(2 * max_distance, head_dim)

    def rows(self, num_frames: int) -> Tensor:
        """Rows for j - i from -(T-1) to T-1, shape (2T - 1, K)."""
        distance = torch.arange(num_frames - 1, -num_frames, -1, device=self.table.weight.device)
        return self.table(distance.clamp(-self.max_distance, self.max_distance - 1) + self.max_distance)


class RelativeSelfAttention(nn.Module):
    """Multi-head self-attention whose scores get ``q . r`` added, r being the row of the key's relative position.

    The (T, T, K) tensor that this suggests is never made: ``q . rows^T`` is one product per head, and its entries are
    moved into place by a change of shape.

    Args:
        d_model: D.
        n_heads: H.
        dropout: on the attention weights.
        normalize_positions: layer norm on the rows (pre-norm models).
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float = 0.0, normalize_positions: bool = False):
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"attention: d_model {d_model} is not a multiple of n_heads {n_heads}")
        self.n_heads = n_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.norm_k = nn.LayerNorm(d_model // n_heads) if normalize_positions else None
        for linear in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(linear.weight, gain=2**-0.5)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_BTD: Tensor, positions_RK: Tensor | None, key_mask: Tensor | None) -> Tensor:
        """Attend within each row.

        Args:
            x_BTD: (B, T, D).
            positions_RK: (2T - 1, K) from :meth:`RelativePositions.rows`, or None for no positions.
            key_mask: (B, 1, 1, T) float, -inf where a key is padding; None where nothing is.

        Returns:
            (B, T, D).
        """
        B, T, D = x_BTD.shape
        q, k, v = (
            proj(x_BTD).view(B, T, self.n_heads, -1).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = key_mask
        if positions_RK is not None:
            if self.norm_k is not None:
                positions_RK = self.norm_k(positions_RK)
            scores = torch.matmul(q * q.shape[-1] ** -0.5, positions_RK.t().type_as(q))
            bias = _shift(scores)
            if key_mask is not None:
                bias = bias + key_mask
        if bias is not None:
            bias = bias.type_as(q)
        context = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(context.transpose(1, 2).reshape(B, T, D))


def _shift(scores: Tensor) -> Tensor:
    """(B, H, T, 2T - 1), columns by j - i -> (B, H, T, T), columns by j."""
    B, H, T, _ = scores.shape
    if T == 1:
        return scores
    # Row i begins at column T - 1 - i. In rows of one column less, that offset grows by one each row: the flat
    # positions i * (2T - 1) + (T - 1 - i) + j are (T - 1) + i * (2T - 2) + j.
    flat = scores.reshape(B, H, T * (2 * T - 1))[..., T - 1 :]
    return flat[..., : T * (2 * T - 2)].view(B, H, T, 2 * T - 2)[..., :T]

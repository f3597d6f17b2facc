"""Self-attention with the relative positions of SpeechLM.

Axis legend: B batch, T frames, D model width, H heads, K width of a head, R rows of the position table.
"""

from torch import Tensor, nn

from nemo_speechlm.kernels.attention import Positions, relative_attention
from nemo_speechlm.kernels.linear import Linear
from nemo_speechlm.kernels.norm import layer_norm


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

    def rows(self, num_frames: int) -> Positions:
        """The rows that queries and keys of so many frames can be apart."""
        before, after = min(num_frames, self.max_distance) - 1, min(num_frames - 1, self.max_distance)
        # Row r is the distance i - j = r - max_distance: turned around, they are in the order of j - i.
        first, last = self.max_distance - after, self.max_distance + before
        return Positions(self.table.weight[first : last + 1].flip(0), before, after)


class MultiHeadAttention(nn.Module):
    """The projections of an attention, initialized as fairseq does.

    Args:
        d_model: D.
        n_heads: H.
        dropout: on the attention weights.
        source_dim: width of what is attended to; None: D.
        linear: class of the projections.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        dropout: float = 0.0,
        source_dim: int | None = None,
        linear: type[nn.Linear] = nn.Linear,
    ):
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"attention: d_model {d_model} is not a multiple of n_heads {n_heads}")
        source_dim = d_model if source_dim is None else source_dim
        self.n_heads = n_heads
        self.dropout = dropout
        self.q_proj = linear(d_model, d_model)
        self.k_proj = linear(source_dim, d_model)
        self.v_proj = linear(source_dim, d_model)
        self.out_proj = linear(d_model, d_model)
        gain = 2**-0.5 if source_dim == d_model else 1.0
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.xavier_uniform_(projection.weight, gain=gain)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def heads(self, x: Tensor) -> Tensor:
        """What a projection gives, (B, T, D), head by head: (B, H, T, K)."""
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)

    @property
    def dropped(self) -> float:
        """Share of the attention weights to drop now."""
        return self.dropout if self.training else 0.0


class RelativeSelfAttention(MultiHeadAttention):
    """Multi-head self-attention whose scores get ``q . r`` added, r being the row of the key's relative position.

    The (T, T, K) tensor that this suggests is never made: see :mod:`nemo_speechlm.kernels.attention`.

    Args:
        d_model: D.
        n_heads: H.
        dropout: on the attention weights.
        normalize_positions: layer norm on the rows (pre-norm models).
    """

    def __init__(self, d_model: int, n_heads: int, dropout: float = 0.0, normalize_positions: bool = False):
        super().__init__(d_model, n_heads, dropout, linear=Linear)
        self.norm_k = layer_norm(d_model // n_heads) if normalize_positions else None

    def forward(self, x_BTD: Tensor, positions: Positions | None, padding_BT: Tensor | None) -> Tensor:
        """Attend within each row.

        Args:
            x_BTD: (B, T, D).
            positions: from :meth:`RelativePositions.rows`, or None for none.
            padding_BT: bool, True where a key is padding; None where nothing is. No row may be all padding.

        Returns:
            (B, T, D).
        """
        q, k, v = (self.heads(proj(x_BTD)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if positions is not None and self.norm_k is not None:
            positions = positions._replace(rows_RK=self.norm_k(positions.rows_RK))
        context = relative_attention(q, k, v, positions, padding_BT, self.dropped)
        return self.out_proj(context.reshape(x_BTD.shape))

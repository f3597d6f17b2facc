"""Attention with relative positions: ``softmax((q k^T + p r^T) / sqrt(K)) v``, r being a row per distance.

``p r^T`` is one product with the few distances that are told apart; its columns are then laid where they belong.
Nothing of the size (T, T, K) is ever made. In SpeechLM p is q, and all heads share the rows; in Transformer-XL, and so
in the Conformer, q and p differ by learned biases, and each head has rows of its own.

Axis legend: B batch, T frames, H heads, K width of a head, R distances.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from nemo_speechlm.kernels.cpu import full_precision, is_fast, is_fast_mixed
from nemo_speechlm.kernels.dropout import keep_mask, keep_scale


class Positions(NamedTuple):
    """Rows of the distances j - i of key j from query i, from ``-before`` to ``after``; farther ones take the ends.

    Attributes:
        rows_RK: (before + 1 + after, K), or (H, before + 1 + after, K) where each head has its own.
        before: the farthest distance that is told apart, backwards.
        after: the same, forwards.
    """

    rows_RK: Tensor
    before: int
    after: int


def relative_attention(
    q_BHTK: Tensor,
    k_BHTK: Tensor,
    v_BHTK: Tensor,
    positions: Positions | None = None,
    padding_BT: Tensor | None = None,
    dropout: float = 0.0,
    p_BHTK: Tensor | None = None,
) -> Tensor:
    """Attend within each row.

    Args:
        q_BHTK: queries, not scaled.
        k_BHTK: keys.
        v_BHTK: values.
        positions: None for none.
        padding_BT: True where a key is not to be seen; each row must have a key that is.
        dropout: on the attention's weights.
        p_BHTK: what the rows of the distances are multiplied with; None: the queries.

    Returns:
        (B, T, H, K).
    """
    if positions is not None and is_fast_mixed(q_BHTK, k_BHTK, v_BHTK, positions.rows_RK, p_BHTK):
        with full_precision():
            q, k, v = (x.float() for x in (q_BHTK, k_BHTK, v_BHTK))
            p = None if p_BHTK is None else p_BHTK.float()
            return relative_attention(
                q, k, v, positions._replace(rows_RK=positions.rows_RK.float()), padding_BT, dropout, p
            )
    if positions is not None and is_fast(q_BHTK, k_BHTK, v_BHTK, positions.rows_RK, p_BHTK):
        rows, before, _ = positions
        return _RelativeAttention.apply(q_BHTK, k_BHTK, v_BHTK, p_BHTK, rows, before, padding_BT, dropout)
    bias = None
    if positions is not None:
        p = q_BHTK if p_BHTK is None else p_BHTK
        scores = torch.matmul(p * q_BHTK.shape[-1] ** -0.5, positions.rows_RK.transpose(-1, -2).type_as(p))
        bias = _by_key(_widen(scores, positions))
    if padding_BT is not None:
        hidden = torch.zeros_like(padding_BT, dtype=q_BHTK.dtype).masked_fill_(padding_BT, -torch.inf)[:, None, None]
        bias = hidden if bias is None else bias + hidden
    return F.scaled_dot_product_attention(
        q_BHTK, k_BHTK, v_BHTK, attn_mask=None if bias is None else bias.type_as(q_BHTK), dropout_p=dropout
    ).transpose(1, 2)


def _widen(scores: Tensor, positions: Positions) -> Tensor:
    """(B, H, T, R) -> (B, H, T, 2T - 1): the columns of all distances, the ends repeated."""
    farthest = scores.shape[2] - 1
    left, right = farthest - positions.before, farthest - positions.after
    if not left and not right:
        return scores
    return torch.cat(
        [scores[..., :1].expand(-1, -1, -1, left), scores, scores[..., -1:].expand(-1, -1, -1, right)], -1
    )


def _by_key(scores: Tensor) -> Tensor:
    """(..., T, 2T - 1), columns by j - i -> a view (..., T, T), columns by j."""
    T = scores.shape[-2]
    if T == 1:
        return scores
    # Row i begins at column T - 1 - i: one to the left of the row before it.
    flat = scores.contiguous().flatten(-2)[..., T - 1 : T - 1 + T * (2 * T - 2)]
    return flat.unflatten(-1, (T, 2 * T - 2))[..., :T]


CACHED = 1 << 18
"""Scores that are worked on at a time, at most, where one head has fewer: with what belongs to them, they fill a
core's cache."""


def _pieces(B: int, H: int, T: int) -> list[tuple[int, slice]]:
    """(utterance, heads) that are computed together."""
    heads = max(1, min(H, CACHED // (T * T)))
    return [(b, slice(h, min(h + heads, H))) for b in range(B) for h in range(0, H, heads)]


class _RelativeAttention(torch.autograd.Function):
    """An utterance's heads, or as many of them as stay in the cache, at a time. PyTorch's own has no dropout on CPUs.

    The weights are kept for the gradient; dropped ones are stored negated.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, p: Tensor | None, rows: Tensor, before: int,
        padding: Tensor | None, dropout: float,
    ) -> Tensor:  # fmt: skip
        B, H, T, K = q.shape
        R, scale, left = rows.shape[-2], K**-0.5, T - 1 - before
        needs_gradient = any(ctx.needs_input_grad)
        scaled = rows.transpose(-1, -2) * scale
        out = q.new_empty(B, T, H, K)
        pieces = _pieces(B, H, T)
        h = pieces[0][1].stop
        wide_all, scores_all = q.new_empty(h, T, 2 * T - 1), q.new_empty(h, T, T)
        kept = q.new_empty((B, H, T, T) if needs_gradient else (1, h, T, T))
        for b, heads in pieces:
            n = heads.stop - heads.start
            wide, scores = wide_all[:n], scores_all[:n]
            by_rows = q[b, heads] if p is None else p[b, heads]
            near = torch.matmul(
                by_rows, scaled if rows.dim() == 2 else scaled[heads], out=wide if R == 2 * T - 1 else None
            )
            if near is not wide:
                wide[..., left : left + R] = near
                wide[..., :left] = near[..., :1]
                wide[..., left + R :] = near[..., -1:]
            torch.baddbmm(_by_key(wide), q[b, heads], k[b, heads].transpose(1, 2), alpha=scale, out=scores)
            if padding is not None:
                scores.masked_fill_(padding[b], -torch.inf)
            weights = torch.softmax(scores, -1, out=kept[b, heads] if needs_gradient else kept[0, :n])
            if dropout:
                mask = keep_mask(weights.shape, dropout)
                dropped = torch.mul(weights, mask, out=scores)
                out[b, :, heads] = torch.bmm(dropped, v[b, heads] * keep_scale(dropout)).transpose(0, 1)
                weights.mul_(mask.mul_(2).sub_(1))
            else:
                out[b, :, heads] = torch.bmm(weights, v[b, heads]).transpose(0, 1)
        if needs_gradient:
            ctx.save_for_backward(q, k, v, p, rows, out, kept)
            ctx.before, ctx.dropout = before, dropout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, p, rows, out, kept = ctx.saved_tensors
        B, H, T, K = q.shape
        R = rows.shape[-2]
        scale = K**-0.5
        left = T - 1 - ctx.before
        of_q, of_k, of_v = (torch.empty(B, T, H, K).transpose(1, 2) for _ in range(3))
        of_p = None if p is None else torch.empty(B, T, H, K).transpose(1, 2)
        of_rows = torch.zeros_like(rows)
        pieces = _pieces(B, H, T)
        h = pieces[0][1].stop
        wide_all = q.new_zeros(h, T, 2 * T - 1)  # what lies between its rows stays zero
        drift = (gradient * out).sum(-1).transpose(1, 2).unsqueeze(3)
        scaled_rows = rows * scale
        # What is kept stays as it is: with retain_graph, it is read again.
        scratch_all = q.new_empty(h, T, T) if ctx.dropout else None
        for b, heads in pieces:
            n = heads.stop - heads.start
            signed, wide = kept[b, heads], wide_all[:n]
            scratch = None if scratch_all is None else scratch_all[:n]
            of_context = gradient[b, :, heads].transpose(0, 1) * keep_scale(ctx.dropout)
            dropped = signed if scratch is None else torch.clamp(signed, min=0, out=scratch)
            of_v[b, heads] = torch.bmm(dropped.transpose(1, 2), of_context)
            # softmax: w (dw - sum(w dw)); what was dropped has no dw.
            of_scores = torch.bmm(of_context, v[b, heads].transpose(1, 2)).mul_(dropped)
            weights = signed if scratch is None else torch.abs(signed, out=scratch)
            by_key = _by_key(wide)
            torch.addcmul(of_scores, weights, drift[b, heads], value=-1, out=by_key)
            # A product reads the layout by keys in place: its rows are one apart from those by distance.
            of_query = torch.bmm(by_key, k[b, heads]).mul_(scale)
            of_k[b, heads] = torch.bmm(by_key.transpose(1, 2), q[b, heads]).mul_(scale)
            of_distances = wide
            if R < 2 * T - 1:
                of_distances = wide[..., left : left + R].clone()
                of_distances[..., 0] += wide[..., :left].sum(-1)
                of_distances[..., -1] += wide[..., left + R :].sum(-1)
            by_rows = q[b, heads] if p is None else p[b, heads]
            if rows.dim() == 3:
                of_p_or_q = torch.bmm(of_distances, scaled_rows[heads])
                of_rows[heads].baddbmm_(of_distances.transpose(1, 2), by_rows, alpha=scale)
            else:
                flat = of_distances.view(n * T, R)
                of_p_or_q = torch.mm(flat, scaled_rows).view(n, T, K)
                of_rows.addmm_(flat.t(), by_rows.reshape(n * T, K), alpha=scale)
            if of_p is None:
                of_query += of_p_or_q
            else:
                of_p[b, heads] = of_p_or_q
            of_q[b, heads] = of_query
        return of_q, of_k, of_v, of_p, of_rows, None, None, None

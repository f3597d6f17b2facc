import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.modules.attention import RelativePositions, RelativeSelfAttention


def plain(attention: RelativeSelfAttention, x: torch.Tensor, table: torch.Tensor, distance: int, padding):
    """The textbook version, with its (T, T, K) tensor of rows."""
    B, T, D = x.shape
    heads = attention.n_heads
    K = D // heads
    q, k, v = (p(x).view(B, T, heads, K) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    i, j = torch.arange(T)[:, None], torch.arange(T)[None, :]
    rows = table[(i - j).clamp(-distance, distance - 1) + distance]
    if attention.norm_k is not None:
        rows = attention.norm_k(rows)
    scores = torch.einsum("bihk,bjhk->bhij", q, k) + torch.einsum("bihk,ijk->bhij", q, rows)
    scores = scores / K**0.5
    if padding is not None:
        scores = scores.masked_fill(padding[:, None, None], -torch.inf)
    context = torch.einsum("bhij,bjhk->bihk", scores.softmax(-1), v).reshape(B, T, D)
    return attention.out_proj(context)


@settings(max_examples=25, deadline=None)
@given(
    frames=st.integers(1, 40), distance=st.integers(1, 12), heads=st.sampled_from([1, 2, 4]),
    normalize=st.booleans(), padded=st.booleans(), seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float, torch.double]),
)  # fmt: skip
def test_same_as_the_plain_version(frames, distance, heads, normalize, padded, seed, dtype):
    """In fp32 on a CPU the kernel computes it, in fp64 PyTorch's own attention."""
    torch.manual_seed(seed)
    tolerance = 1e-4 if dtype == torch.float else 1e-10
    positions = RelativePositions(16 // heads, distance).to(dtype)
    attention = RelativeSelfAttention(16, heads, normalize_positions=normalize).to(dtype)
    x = torch.randn(2, frames, 16, dtype=dtype, requires_grad=True)
    padding = None
    if padded:
        padding = torch.arange(frames) >= torch.tensor([[frames], [max(1, frames // 2)]])
    ours = attention(x, positions.rows(frames), padding)
    theirs = plain(attention, x, positions.table.weight, distance, padding)
    assert torch.allclose(ours, theirs, atol=tolerance)
    weight = torch.randn_like(ours)
    parameters = [x, positions.table.weight, *attention.parameters()]
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), parameters, allow_unused=True),
        torch.autograd.grad((theirs * weight).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=tolerance)


def test_heads_must_fit():
    with pytest.raises(ValueError, match="not a multiple"):
        RelativeSelfAttention(10, 3)

"""What is computed by the CPU's own way, against PyTorch's plain one: values, gradients, what needs none."""

import pytest
import torch
from torch.nn import functional as F

from nemo_speechlm.kernels import attention as attention_module
from nemo_speechlm.kernels import convolution, cpu
from nemo_speechlm.kernels.attention import Positions, relative_attention
from nemo_speechlm.kernels.cpu import FEW_ROWS, is_fast, product_weight_gradient
from nemo_speechlm.kernels.dropout import dropout, keep_mask, keep_scale
from nemo_speechlm.kernels.linear import feed_forward, linear
from nemo_speechlm.kernels.packed import packed_product
from nemo_speechlm.modules import ConvFrontEnd


def randn(*shape, grad=True):
    return torch.randn(*shape, requires_grad=grad)


def compare(ours, theirs, inputs, tolerance=1e-5):
    """Values and gradients of two results; a second backward through ours gives the same gradients."""
    assert torch.allclose(ours, theirs, atol=tolerance * theirs.abs().max().item())
    weight = torch.randn_like(ours)
    first = torch.autograd.grad(ours, inputs, weight, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(theirs, inputs, weight), strict=True):
        assert (a - b).abs().max() <= tolerance * max(b.abs().max().item(), 0.1)
    assert all(map(torch.equal, first, torch.autograd.grad(ours, inputs, weight)))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("rows", [1, FEW_ROWS - 1, FEW_ROWS, 3 * FEW_ROWS + 1])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(rows, bias):
    x, weight, b = randn(2, rows, 24), randn(37, 24), randn(37) if bias else None
    inputs = [t for t in (x, weight, b) if t is not None]
    compare(linear(x, weight, b), F.linear(x, weight, b), inputs)
    strided = x.transpose(0, 1)
    compare(linear(strided, weight, b), F.linear(strided, weight, b), inputs)


@pytest.mark.parametrize(("by_onednn", "threads"), [(False, 1), (True, 1), (True, 2)])
def test_weight_gradient(by_onednn, threads, monkeypatch):
    monkeypatch.setattr(cpu, "_onednn_makes_weight_gradients", lambda: by_onednn)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for rows in (FEW_ROWS - 1, FEW_ROWS, 301):
        gradient, x = randn(rows, 24, grad=False), randn(2 * rows, 40, grad=False)
        for inputs in (x[:rows], x[::2], x.as_strided((rows, 80), (80, 1))):  # whole, apart, two in one row
            expected = gradient.double().t() @ inputs.double()
            assert torch.allclose(product_weight_gradient(gradient, inputs).double(), expected, atol=1e-4)


def test_feed_forward():
    inputs = [randn(3, 50, 16), randn(40, 16), randn(40), randn(16, 40), randn(16)]
    x, w1, b1, w2, b2 = inputs
    plain = F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)
    compare(feed_forward(*inputs), plain, inputs)
    with torch.no_grad():
        assert torch.allclose(feed_forward(*inputs), plain, atol=1e-4)


def test_frozen_parts_get_no_gradient():
    x, w1, b1 = randn(2, 70, 16, grad=False), randn(40, 16, grad=False), torch.zeros(40)
    w2, b2 = randn(16, 40), randn(16)
    feed_forward(x, w1, b1, w2, b2).sum().backward()
    assert w2.grad is not None
    assert x.grad is w1.grad is b1.grad is None


def test_dropout_keeps_its_share_and_its_mean():
    mask = keep_mask((1001, 503), 0.1)
    assert mask.mean() == pytest.approx(0.9, abs=0.002)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert keep_scale(0.5) == 2.0
    assert mask.mean(0).std() == pytest.approx((0.09 / 1001) ** 0.5, rel=0.2)  # draws are independent
    assert not torch.equal(mask, keep_mask((1001, 503), 0.1))
    torch.manual_seed(7)
    first = keep_mask((5, 3), 0.3)
    torch.manual_seed(7)
    assert torch.equal(first, keep_mask((5, 3), 0.3))


def test_dropout_and_its_gradient():
    x, residual = randn(30, 20), randn(30, 20)
    y = dropout(x, 0.25, True, residual)
    kept = (y - residual) != 0
    assert 0.6 < kept.float().mean() < 0.9
    assert torch.allclose(y, residual + x * kept / 0.75, atol=1e-6)
    a, b = torch.autograd.grad(y.sum(), (x, residual), retain_graph=True)
    assert all(map(torch.equal, (a, b), torch.autograd.grad(y.sum(), (x, residual))))
    assert torch.allclose(a, kept / 0.75)
    assert torch.equal(b, torch.ones_like(b))
    assert dropout(x, 0.25, False) is x
    assert not dropout(x, 1.0, True).any()


@pytest.mark.parametrize("frames", [1, 2, 9, 40])
@pytest.mark.parametrize("prob", [0.0, 0.3])
@pytest.mark.parametrize("together", [1, 2, 3])
def test_relative_attention(frames, prob, together, monkeypatch):
    """All three heads at a time, two and one, and each alone."""
    monkeypatch.setattr(attention_module, "CACHED", together * frames * frames)
    B, H, K, distance = 3, 3, 8, 6
    q, k, v = (randn(B, frames, H, K) for _ in range(3))
    before, after = min(frames, distance) - 1, min(frames - 1, distance)
    rows = randn(before + 1 + after, K)
    padding = torch.arange(frames) >= torch.tensor([[frames], [max(1, frames - 3)], [1]])
    masks = keep_mask((B, H, frames, frames), prob)
    left = iter([part for row in masks for part in row.split(together)])
    monkeypatch.setattr(attention_module, "keep_mask", lambda shape, p: next(left).clone())
    heads = [t.transpose(1, 2) for t in (q, k, v)]
    ours = relative_attention(*heads, Positions(rows, before, after), padding, prob)
    apart = (torch.arange(frames)[None] - torch.arange(frames)[:, None]).clamp(-before, after) + before
    scores = torch.einsum("bihk,bjhk->bhij", q, k) + torch.einsum("bihk,ijk->bhij", q, rows[apart])
    weights = (scores * K**-0.5).masked_fill(padding[:, None, None], -torch.inf).softmax(-1)
    plain = torch.einsum("bhij,bjhk->bihk", weights * masks * keep_scale(prob), v)
    compare(ours, plain, (q, k, v, rows))


@pytest.mark.parametrize("frames", [1, 7, 40])
@pytest.mark.parametrize("by_kernel", [True, False])
def test_rows_of_each_head_and_queries_of_their_own(frames, by_kernel, monkeypatch):
    """As the Conformer attends: all distances are told apart, and the rows meet other queries than the keys do."""
    monkeypatch.setattr(attention_module, "CACHED", 2 * frames * frames)
    B, H, K = 2, 3, 8
    q, k, v, p = (randn(B, H, frames, K) for _ in range(4))
    rows = randn(H, 2 * frames - 1, K)
    padding = torch.arange(frames) >= torch.tensor([[frames], [max(1, frames - 3)]])
    monkeypatch.setattr(attention_module, "is_fast", lambda *tensors: by_kernel)
    ours = relative_attention(q, k, v, Positions(rows, frames - 1, frames - 1), padding, 0.0, p)
    apart = torch.arange(frames)[None] - torch.arange(frames)[:, None] + frames - 1
    scores = torch.einsum("bhik,bhjk->bhij", q, k) + torch.einsum("bhik,hijk->bhij", p, rows[:, apart])
    weights = (scores * K**-0.5).masked_fill(padding[:, None, None], -torch.inf).softmax(-1)
    plain = torch.einsum("bhij,bhjk->bihk", weights, v)
    compare(ours, plain, (q, k, v, p, rows))


def test_attention_under_autocast_computes_in_fp32():
    q, k, v = (randn(2, 2, 9, 8).bfloat16() for _ in range(3))
    rows = randn(17, 8)
    with torch.autocast("cpu", torch.bfloat16):
        ours = relative_attention(q, k, v, Positions(rows, 8, 8))
    expected = relative_attention(q.float(), k.float(), v.float(), Positions(rows, 8, 8))
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("of_residual", [torch.float32, torch.bfloat16, None])
def test_dropout_of_bfloat16(of_residual):
    x = randn(30, 20, grad=False).bfloat16().requires_grad_()
    residual = None if of_residual is None else randn(30, 20, grad=False).to(of_residual).requires_grad_()
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        y = dropout(x, 0.25, True, residual)
    torch.manual_seed(3)
    mask = keep_mask((30, 20), 0.25)
    plain = x.float() * mask * keep_scale(0.25) + (0.0 if residual is None else residual.float())
    assert y.dtype == (of_residual or torch.bfloat16)
    torch.testing.assert_close(y.float(), plain, atol=0.02, rtol=0.01)
    y.float().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.float(), mask * keep_scale(0.25), atol=0.01, rtol=0.01)
    assert residual is None or residual.grad.dtype == of_residual


@pytest.mark.parametrize("released_padding", [True, False])
@pytest.mark.parametrize("samples", [430, 1203, 5000])
def test_convolutions(samples, released_padding, monkeypatch):
    """Chunks shorter than the signal, an utterance padded, an offset in the audio; weights of norm and bias drawn."""
    monkeypatch.setattr(convolution, "CHUNK", 23)
    layers = [(8, 10, 5), (8, 3, 2), (6, 3, 2), (8, 2, 2), (4, 4, 1)]
    front_end = ConvFrontEnd(layers, released_padding=released_padding)
    for parameter in front_end.norms[0].parameters():
        torch.nn.init.normal_(parameter)
    audio, lengths = torch.randn(2, 1, samples) + 0.3, torch.tensor([samples, samples * 2 // 3])
    audio[1, :, lengths[1] :] = 0
    assert front_end._by_kernels(audio)
    ours, frames = front_end(audio, lengths)
    monkeypatch.setattr(front_end, "_by_kernels", lambda audio: False)
    theirs, their_frames = front_end(audio, lengths)
    assert torch.equal(frames, their_frames)
    compare(ours, theirs, list(front_end.parameters()), 2e-5)


def test_a_convolution_of_a_turned_input():
    x, weight = randn(2, 16, 50), randn(8, 16, 3)
    ours = convolution.gelu_convolution(x.transpose(1, 2), weight, convolution.Window(3, 2))
    compare(ours, F.conv1d(F.gelu(x), weight, stride=2).transpose(1, 2), [x, weight])


def test_silence_has_no_variance():
    front_end = ConvFrontEnd([(8, 10, 5), (8, 3, 2)])
    features, _ = front_end(torch.zeros(1, 1, 500), torch.tensor([500]))
    assert features.isfinite().all()
    features.sum().backward()
    assert all(p.grad.isfinite().all() for p in front_end.parameters())


def test_other_kinds_of_tensors_take_the_plain_way():
    assert is_fast(torch.zeros(1), None)
    assert not is_fast(torch.zeros(1, dtype=torch.double))
    assert not is_fast(torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16))
    with torch.autocast("cpu"):
        assert not is_fast(torch.zeros(1))
    x, weight = torch.randn(100, 8), torch.randn(4, 8)
    rows = torch.func.vmap(lambda row: linear(row, weight))(x)
    assert torch.allclose(rows, x @ weight.t(), atol=1e-5)
    traced = torch.jit.trace(lambda x: linear(x, weight), x)
    assert torch.allclose(traced(torch.ones(3, 8)), torch.ones(3, 8) @ weight.t(), atol=1e-5)


@pytest.mark.parametrize(
    "operators", [{"mkldnn::_linear_pointwise": ("X", "W")}, {"mkldnn::_no_such_thing": ("X",)}, {"no::thing": ()}]
)
def test_another_pytorch_computes_with_functions_of_its_own(monkeypatch, caplog, operators):
    x, weight, bias = torch.randn(100, 16), torch.randn(8, 16), torch.randn(8)
    assert cpu.is_fast(x, weight)
    expected = packed_product(weight, bias, 100)(x)
    monkeypatch.setattr(cpu, "_PRIVATE", operators)
    cpu._has_private_operators.cache_clear()
    try:
        with caplog.at_level("WARNING"):
            assert not cpu.is_fast(x, weight)
            torch.testing.assert_close(packed_product(weight, bias, 100)(x), expected)
        assert len(caplog.records) == 1
        assert f"PyTorch {torch.__version__} lacks {next(iter(operators))}" in caplog.text
    finally:
        cpu._has_private_operators.cache_clear()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512f avx512_bf16", True), ("amx_bf16 amx_tile", True), ("fpu avx512f bf16x", False), (None, False)],
)
def test_processors_that_multiply_bfloat16(flags, expected, monkeypatch):
    monkeypatch.setattr(cpu, "_processor", lambda: {} if flags is None else {"flags": flags})
    assert cpu.multiplies_bfloat16() is expected

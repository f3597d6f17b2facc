"""The fused kernel against PyTorch: in Triton's interpreter on a CPU (see conftest.py), compiled on a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

triton = pytest.importorskip("triton")

from nemo_speechlm.kernels import mixing  # noqa: E402
from nemo_speechlm.kernels.mixing import mix_states, mix_states_torch  # noqa: E402
from nemo_speechlm.kernels.mixing_triton import mix_states_triton  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def inputs(B, T, D, V=7, dtype=torch.float32, device=DEVICE, share=0.3):
    drawn = lambda: torch.rand(B, T, device=device) < share  # noqa: E731
    return {
        "states_BTD": torch.randn(B, T, D, device=device, dtype=dtype),
        "mask_BT": drawn(),
        "mask_vector_D": torch.randn(D, device=device),
        "swap_BT": drawn(),
        "units_BT": torch.randint(-1, V, (B, T), device=device),
        "embedding_VD": torch.randn(V, D, device=device),
        "padding_BT": drawn(),
    }


def compare(arguments, tolerance=1e-6):
    """Values, and gradients of what has some; swapped frames have a unit."""
    if arguments.get("swap_BT") is not None:
        arguments["swap_BT"] &= arguments["units_BT"] >= 0
    results = []
    for mix in (mix_states_triton, mix_states_torch):
        own = {k: v.detach().requires_grad_() if v is not None and v.is_floating_point() else v
               for k, v in arguments.items()}  # fmt: skip
        mixed = mix(**own)
        weight = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(0)).to(mixed)
        leaves = [v for v in own.values() if v is not None and v.requires_grad]
        first, again = (
            torch.autograd.grad(mixed, leaves, weight, allow_unused=True, retain_graph=keep) for keep in (True, False)
        )
        assert all(torch.allclose(a, b) for a, b in zip(first, again, strict=True) if a is not None)
        results.append((mixed, first))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert ours.dtype == theirs.dtype == arguments["states_BTD"].dtype
    # Triton's interpreter cuts fp32 to bfloat16 where a GPU rounds: one digit.
    assert torch.allclose(ours.float(), theirs.float(), rtol=2**-7 if ours.dtype == torch.bfloat16 else 0.0, atol=0.0)
    for a, b in zip(our_gradients, their_gradients, strict=True):
        assert a.dtype == b.dtype
        assert torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance * 10)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 3), frames=st.integers(1, 40), width=st.sampled_from([1, 5, 64, 257]),
    share=st.sampled_from([0.0, 0.3, 1.0]), without=st.sets(st.sampled_from(["mask", "swap", "padding"])),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_equal_to_pytorch(rows, frames, width, share, without, seed):
    torch.manual_seed(seed)
    arguments = inputs(rows, frames, width, share=share)
    gone = {"mask": ("mask_BT", "mask_vector_D"), "swap": ("swap_BT", "units_BT", "embedding_VD"),
            "padding": ("padding_BT",)}  # fmt: skip
    arguments |= {name: None for kind in without for name in gone[kind]}
    compare(arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype):
    """The embedding and the mask vector stay fp32, and so are their sums; PyTorch's are not, so the bound is wide."""
    torch.manual_seed(0)
    arguments = inputs(2, 33, 70, V=40, dtype=dtype, share=0.2)
    compare(arguments, tolerance=2e-2)


@pytest.mark.skipif(DEVICE != "cpu", reason="the CPU's own way")
def test_rows_that_change_on_a_cpu(monkeypatch):
    torch.manual_seed(0)
    arguments = inputs(3, 20, 6)
    arguments["swap_BT"] &= arguments["units_BT"] >= 0
    own = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in arguments.items()}
    leaves, weight, results = [v for v in own.values() if v.requires_grad], torch.randn(3, 20, 6), []
    for fast in (True, False):
        monkeypatch.setattr(mixing, "is_fast", lambda *tensors, fast=fast: fast)
        mixed = mix_states_torch(**own)
        results.append([mixed, *torch.autograd.grad(mixed, leaves, weight)])
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, atol=1e-6)


def test_strided_states_and_embeddings():
    torch.manual_seed(0)
    arguments = inputs(3, 20, 48)
    arguments["states_BTD"] = torch.randn(20, 3, 96, device=DEVICE).transpose(0, 1)[..., ::2]
    compare(dict(arguments))
    arguments["states_BTD"] = torch.randn(20, 3, 96, device=DEVICE).transpose(0, 1)[..., 10:58]
    arguments["embedding_VD"] = torch.randn(48, 7, device=DEVICE).t()
    arguments["mask_BT"] = arguments["mask_BT"].t().contiguous().t()
    arguments["units_BT"] = arguments["units_BT"].t().contiguous().t()
    compare(arguments)


def test_gradient_that_is_broadcast():
    arguments = inputs(2, 10, 8)
    arguments["units_BT"] = arguments["units_BT"].clamp(min=0)
    states = arguments.pop("states_BTD").requires_grad_()
    (gradient,) = torch.autograd.grad(mix_states_triton(states, **arguments).sum(), states)
    kept = ~(arguments["mask_BT"] | arguments["swap_BT"] | arguments["padding_BT"])
    assert torch.equal(gradient, kept.unsqueeze(2).expand_as(gradient).float())


def test_nothing_at_all():
    assert mix_states_triton(torch.empty(0, 5, 8, device=DEVICE)).shape == (0, 5, 8)
    assert mix_states_triton(torch.empty(2, 0, 8, device=DEVICE)).shape == (2, 0, 8)


def test_which_comes_first():
    states = torch.ones(1, 4, 2, device=DEVICE)
    frames = lambda *at: torch.tensor([[i in at for i in range(4)]], device=DEVICE)  # noqa: E731
    for mix in (mix_states_triton, mix_states_torch):
        mixed = mix(
            states, frames(0, 1), torch.full((2,), 5.0, device=DEVICE),
            frames(0, 1, 2), torch.tensor([[0, 0, 1, -1]], device=DEVICE),
            torch.tensor([[7.0, 7.0], [8.0, 8.0]], device=DEVICE), frames(0),
        )  # fmt: skip
        assert mixed[0, :, 0].tolist() == [0.0, 5.0, 8.0, 1.0]


def test_switch(monkeypatch):
    states = torch.ones(1, 2, 3)
    called = []
    monkeypatch.setattr(mixing, "_triton", lambda: lambda *a: called.append("triton") or states)
    mix_states(states)
    assert not called, "a CPU takes PyTorch"
    mix_states(states, backend="triton")
    assert called == ["triton"]
    monkeypatch.setenv(mixing.BACKEND_VARIABLE, "triton")
    mix_states(states)
    assert called == ["triton"] * 2
    mix_states(states, backend="torch")
    assert called == ["triton"] * 2
    monkeypatch.setenv(mixing.BACKEND_VARIABLE, "cuda")
    with pytest.raises(ValueError, match="expected auto, triton or torch"):
        mix_states(states)
    monkeypatch.setattr(mixing, "_triton", lambda: None)
    with pytest.raises(ValueError, match="not installed"):
        mix_states(states, backend="triton")
    with pytest.raises(ValueError, match="belong together"):
        mix_states(states, mask_BT=torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device that is for tests: GPU_TESTS=1")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_size_on_a_gpu(dtype):
    torch.manual_seed(0)
    compare(inputs(8, 777, 768, V=369, dtype=dtype), tolerance=3e-2 if dtype == torch.bfloat16 else 1e-4)

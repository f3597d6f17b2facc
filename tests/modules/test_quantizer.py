import pytest
import torch
from nemo.collections.asr.parts.submodules.ssl_quantizers import GumbelVectorQuantizer

from nemo_speechlm.modules.quantizer import GumbelQuantizer, code_perplexity


def quantizers(train=False):
    torch.manual_seed(0)
    ours = GumbelQuantizer(dim=5, num_codes=7, code_dim=4, temperature=[2.0, 0.5, 0.9])
    theirs = GumbelVectorQuantizer(
        dim=5, num_vars=7, temp=(2.0, 0.5, 0.9), groups=1, combine_groups=False, vq_dim=4, time_first=True
    )
    theirs.load_state_dict(ours.state_dict())
    return ours.double().train(train), theirs.double().train(train)


def test_equals_nemos():
    ours, theirs = quantizers()
    frames = torch.randn(11, 5, dtype=torch.float64)
    found = ours.quantize(frames)
    vectors, diversity, _, codes = theirs(frames.unsqueeze(0), return_ids=True)
    torch.testing.assert_close(found.vectors, vectors[0])
    assert found.diversity.item() == pytest.approx(float(diversity), rel=1e-6)
    assert torch.equal(found.codes, codes[0])
    assert torch.equal(found.drawn, found.codes)
    assert found.counts.tolist() == [int((codes == v).sum()) for v in range(7)]


def test_diversity_by_hand_and_its_gradient():
    ours, _ = quantizers()
    frames = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    mean = ours.weight_proj(frames).softmax(-1).mean(0)
    entropy = -sum(p * torch.log(p + 1e-7) for p in mean)
    assert ours.quantize(frames).diversity.item() == pytest.approx((7 - entropy.exp().item()) / 7)
    assert torch.autograd.gradcheck(lambda x: ours.quantize(x).diversity, (frames,))


def test_draws_by_gumbel_softmax():
    ours, _ = quantizers(train=True)
    frames = torch.randn(1, 5, dtype=torch.float64).mul(0.3).expand(20000, 5)
    found = ours.quantize(frames, torch.Generator().manual_seed(0))
    shares = torch.bincount(found.drawn, minlength=7) / 20000
    expected = ours.weight_proj(frames[0]).softmax(-1)
    torch.testing.assert_close(shares.double(), expected, atol=0.015, rtol=0)
    torch.testing.assert_close(found.vectors, ours.vars[0][found.drawn])


def test_gradient_is_that_of_the_softmax():
    ours, _ = quantizers(train=True)
    frames = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    found = ours.quantize(frames, torch.Generator().manual_seed(1))
    weights = torch.randn(3, 4, dtype=torch.float64)
    (own,) = torch.autograd.grad((found.vectors * weights).sum(), frames)
    uniform = torch.rand(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    soft = ((ours.weight_proj(frames) - torch.log(-torch.log(uniform))) / 2.0).softmax(-1)
    (expected,) = torch.autograd.grad((soft @ ours.vars[0] * weights).sum(), frames)
    torch.testing.assert_close(own, expected)


def test_temperature_falls_to_its_end():
    ours, _ = quantizers()
    temperatures = []
    for updates in (0, 1, 100):
        ours.set_num_updates(updates)
        temperatures.append(ours.curr_temp)
    assert temperatures == pytest.approx([2.0, 1.8, 0.5])


def test_perplexity_of_counts():
    assert float(code_perplexity(torch.tensor([3, 3, 0, 3]))) == pytest.approx(3)
    assert float(code_perplexity(torch.tensor([5, 0]))) == pytest.approx(1)
    assert float(code_perplexity(torch.tensor([1, 3]))) == pytest.approx(4 / 3**0.75)

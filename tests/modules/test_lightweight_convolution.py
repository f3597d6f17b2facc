"""Lightweight convolution against a plain loop."""

import pytest
import torch
from torch.nn import functional as F

from nemo_speechlm.modules.lightweight_convolution import LightweightBlock, LightweightConvolution


def plain(module, x, padding):
    """Frame by frame and channel by channel."""
    gated = F.glu(module.gate(x), dim=2)
    weight = module.weight.softmax(1)
    B, T, D = x.shape
    H, K = weight.shape
    out = torch.zeros_like(gated)
    for b in range(B):
        for t in range(T):
            for c in range(D):
                head = c * H // D
                for k in range(K):
                    place = t + k - K // 2
                    if 0 <= place < T and not padding[b, place]:
                        out[b, t, c] += weight[head, k] * gated[b, place, c]
    return module.projection(out)


@pytest.mark.parametrize(("heads", "kernel"), [(2, 3), (4, 5), (1, 1)])
def test_against_a_loop(heads, kernel):
    torch.manual_seed(0)
    module = LightweightConvolution(8, heads, kernel).double().eval()
    x, padding = torch.randn(2, 6, 8, dtype=torch.float64), torch.arange(6) >= torch.tensor([[6], [4]])
    torch.testing.assert_close(module(x, padding), plain(module, x, padding))


def test_padding_changes_nothing():
    torch.manual_seed(0)
    block = LightweightBlock(8, 2, 5).eval()
    x = torch.randn(1, 5, 8)
    alone = block(x, torch.zeros(1, 5, dtype=torch.bool))
    longer = torch.cat([x, torch.full((1, 3, 8), 7.0)], 1)
    padded = block(longer, torch.arange(8).unsqueeze(0) >= 5)
    torch.testing.assert_close(padded[:, :5], alone)


def test_dropped_weights_keep_their_mean():
    torch.manual_seed(0)
    module = LightweightConvolution(8, 2, 3, weight_dropout=0.5)
    x, padding = torch.randn(1, 6, 8), torch.zeros(1, 6, dtype=torch.bool)
    mean = torch.stack([module(x, padding) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, module.eval()(x, padding), atol=0.03, rtol=0)


@pytest.mark.parametrize(("options", "message"), [({"heads": 3}, "not a multiple of heads 3"), ({"kernel": 4}, "odd")])
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        LightweightConvolution(8, **{"heads": 2, **options})

"""Products with a packed matrix are those of PyTorch."""

import pytest
import torch

from nemo_speechlm.kernels.packed import packed_product


@pytest.mark.parametrize("rows", [1, 63, 64, 1000])
@pytest.mark.parametrize("size", [39, 768])
def test_same_as_pytorch(rows, size):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, size), torch.randn(50, size), torch.randn(50)
    product = packed_product(weight, bias, rows)
    expected = (x.double() @ weight.double().t() + bias.double()).float()
    assert torch.allclose(product(x), expected, atol=1e-4)
    assert torch.equal(product(x[: rows // 2 + 1]), product(x)[: rows // 2 + 1]), "a row does not depend on the others"
    strided = x.t().contiguous().t()
    assert torch.allclose(product(strided), expected, atol=1e-4)


def test_other_types_take_pytorchs_way():
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((100, 8), (5, 8), (5,)))
    assert torch.equal(packed_product(weight, bias, 100)(x), torch.addmm(bias, x, weight.t()))

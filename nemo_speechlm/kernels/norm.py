"""Layer norm: apex's where it is installed, PyTorch's otherwise."""

from functools import cache

import torch
from torch import Tensor, nn


@cache
def _layer_norm_class() -> type[nn.Module]:
    try:
        from apex.normalization import FusedLayerNorm
    except ImportError:  # PyPI's package of that name has none
        return nn.LayerNorm

    class LayerNorm(FusedLayerNorm):  # type: ignore[misc]
        """Under autocast apex's would give its type, where PyTorch's gives fp32."""

        def forward(self, x: Tensor) -> Tensor:
            if not (x.is_cuda and torch.is_autocast_enabled("cuda")):
                return super().forward(x)
            with torch.autocast("cuda", enabled=False):
                return super().forward(x.float())

    return LayerNorm


def layer_norm(width: int) -> nn.Module:
    """A layer norm over the last ``width`` numbers; parameters and numbers are the same whichever it is.

    apex's runs only on GPUs, and takes PyTorch's way by itself elsewhere.
    """
    return _layer_norm_class()(width)

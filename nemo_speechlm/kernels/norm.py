"""Layer norm: apex's where it is installed, PyTorch's otherwise."""

from functools import cache

from torch import nn


@cache
def _layer_norm_class() -> type[nn.Module]:
    try:
        from apex.normalization import FusedLayerNorm
    except ImportError:  # PyPI's package of that name has none
        return nn.LayerNorm
    return FusedLayerNorm


def layer_norm(width: int) -> nn.Module:
    """A layer norm over the last ``width`` numbers; parameters and numbers are the same whichever it is.

    apex's runs only on GPUs, and takes PyTorch's way by itself elsewhere.
    """
    return _layer_norm_class()(width)

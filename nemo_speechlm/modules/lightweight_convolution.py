"""Lightweight convolution (Wu et al., *Pay Less Attention*, arXiv 1901.10430, section 3).

Axis legend: B rows, T frames or tokens, D width, H heads, K places of a kernel.
"""

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.kernels.norm import layer_norm


class LightweightConvolution(NeuralModule):
    """A depthwise convolution whose kernels are normalized by a softmax and shared by the channels of a head.

    Before it stands a gated linear unit, behind it a projection. In training, weights of the kernels are dropped
    (DropConnect, section 3 of the paper).

    Args:
        d_model: D.
        heads: H; each has D / H channels side by side.
        kernel: K, odd: the output has as many frames as the input.
        weight_dropout: share of the weights of the kernels that are dropped.

    Raises:
        ValueError: if D is not a multiple of H, or K is even.
    """

    def __init__(self, d_model: int, heads: int = 8, kernel: int = 3, weight_dropout: float = 0.1):
        super().__init__()
        if d_model % heads:
            raise ValueError(f"LightweightConvolution: d_model {d_model} is not a multiple of heads {heads}")
        if kernel % 2 == 0:
            raise ValueError(f"LightweightConvolution: kernel is {kernel}, expected an odd number")
        self.weight_dropout = weight_dropout
        self.gate = nn.Linear(d_model, 2 * d_model)
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, kernel)))
        self.projection = nn.Linear(d_model, d_model)

    def forward(self, x_BTD: Tensor, padding_BT: Tensor) -> Tensor:
        """States (B, T, D) and padding (B, T), True where padded -> (B, T, D); padding is read as zeros."""
        x = F.glu(self.gate(x_BTD), dim=2).masked_fill(padding_BT.unsqueeze(2), 0.0)
        D, (H, K) = x.shape[2], self.weight.shape
        kernel_HK = F.dropout(self.weight.softmax(1), self.weight_dropout, self.training)
        kernel_D1K = kernel_HK.repeat_interleave(D // H, 0).unsqueeze(1)
        x = F.conv1d(x.transpose(1, 2), kernel_D1K, padding=K // 2, groups=D).transpose(1, 2)
        return self.projection(x)


class LightweightBlock(NeuralModule):
    """A lightweight convolution and a feed-forward layer, each behind a layer norm and beside a skip connection.

    Args:
        d_model: D.
        heads: of the convolution.
        kernel: of the convolution, odd.
        expansion: width of the feed-forward layer over D; 0: there is none.
        dropout: after each of both.
    """

    def __init__(self, d_model: int, heads: int = 8, kernel: int = 3, expansion: float = 4, dropout: float = 0.1):
        super().__init__()
        self.norm = layer_norm(d_model)
        self.convolution = LightweightConvolution(d_model, heads, kernel, dropout)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = None
        if expansion:
            inner = round(d_model * expansion)
            layers = (layer_norm(d_model), nn.Linear(d_model, inner), nn.ReLU(), nn.Linear(inner, d_model))
            self.feed_forward = nn.Sequential(*layers)

    def forward(self, x_BTD: Tensor, padding_BT: Tensor) -> Tensor:
        """States (B, T, D) and padding (B, T), True where padded -> (B, T, D)."""
        x = x_BTD + self.dropout(self.convolution(self.norm(x_BTD), padding_BT))
        return x if self.feed_forward is None else x + self.dropout(self.feed_forward(x))

"""NeMo's Conformer, made so that an utterance's states do not depend on the batch that it is in.

Axis legend: B rows, T frames, C channels, D width.
"""

from typing import Any

import torch
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.parts.submodules.conformer_modules import ConformerConvolution
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedConformer(ConformerEncoder):
    """NeMo's ``ConformerEncoder`` with a group norm that leaves padding out, and with or without positions.

    NeMo's group norm counts padded frames in its statistics. What stands in a batch beside an utterance would then
    change its states.

    Args:
        positions: add sinusoidal positions to the input. Without them the input brings its own, as where the states of
            an utterance and the embeddings of a text stand in one row (SLAM, section 3.1).
        options: of ``ConformerEncoder``, with ``conv_norm_type: group_normN``. Its ``self_attention_model`` must be
            ``abs_pos`` where ``positions`` is false.
    """

    def __init__(self, positions: bool = True, **options: Any):
        super().__init__(**options)
        if not positions:
            if self.self_attention_model != "abs_pos":
                raise ValueError(
                    f"MaskedConformer: positions is false, and self_attention_model is {self.self_attention_model!r}; "
                    "expected 'abs_pos'"
                )
            self.pos_enc = NoPositions(options.get("dropout_pre_encoder", 0.1))
        for layer in self.layers:
            conv = layer.conv
            if isinstance(conv.batch_norm, nn.GroupNorm):
                layer.conv = MaskedConvolution(
                    d_model=conv.d_model,
                    kernel_size=conv.kernel_size,
                    norm_type=conv.norm_type,
                    conv_context_size=self.conv_context_size,
                    use_bias=conv.use_bias,
                )


class NoPositions(nn.Module):
    """Stands where NeMo's Conformer adds positions, and adds none."""

    def __init__(self, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)

    def extend_pe(self, length: int, device: torch.device, dtype: torch.dtype) -> None:
        """There is no table of positions to extend."""

    def forward(self, x: Tensor, cache_len: int = 0) -> tuple[Tensor, None]:
        """(B, T, D) -> (B, T, D) after dropout."""
        return self.dropout(x), None


class MaskedConvolution(ConformerConvolution):
    """NeMo's convolution module of a Conformer layer; the statistics of its group norm leave padding out."""

    def forward(self, x: Tensor, pad_mask: Tensor | None = None, cache: Tensor | None = None) -> Any:
        """(B, T, D) and padding (B, T), True where padded -> (B, T, D)."""
        if cache is not None or pad_mask is None:
            return super().forward(x, pad_mask=pad_mask, cache=cache)
        x_BCT = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        x_BCT = self.depthwise_conv(x_BCT.masked_fill(pad_mask.unsqueeze(1), 0.0))
        x_BCT = self.activation(masked_group_norm(x_BCT, pad_mask, self.batch_norm))
        return self.pointwise_conv2(x_BCT).transpose(1, 2)


def masked_group_norm(x_BCT: Tensor, padding_BT: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group norm whose mean and variance are those of a row's frames that are not padding, in fp32 at least."""
    # Worth asking only where it costs no device synchronization, and never in a graph that is to hold for all inputs.
    if x_BCT.is_cpu and not torch.jit.is_tracing() and not padding_BT.any():
        return norm(x_BCT)
    B, C, T = x_BCT.shape
    G = norm.num_groups
    x = x_BCT.reshape(B, G, C // G, T)
    x = x if x.dtype == torch.float64 else x.float()
    inside = (~padding_BT).view(B, 1, 1, T).to(x.dtype)
    count = inside.sum(3, keepdim=True).clamp(min=1) * (C // G)
    mean = (x * inside).sum((2, 3), keepdim=True) / count
    variance = ((x - mean) * inside).square().sum((2, 3), keepdim=True) / count
    x = ((x - mean) * torch.rsqrt(variance + norm.eps)).reshape(B, C, T)
    return (x * norm.weight.view(-1, 1) + norm.bias.view(-1, 1)).type_as(x_BCT)

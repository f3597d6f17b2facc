"""NeMo's Conformer, made so that an utterance's states do not depend on the batch that it is in.

Axis legend: B rows, T frames, C channels, D width.
"""

from typing import Any

import torch
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.parts.submodules.conformer_modules import ConformerConvolution
from nemo.collections.asr.parts.submodules.multi_head_attention import RelPositionMultiHeadAttention
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.kernels.attention import Positions, relative_attention
from nemo_speechlm.kernels.cpu import full_precision, is_fast, is_fast_mixed
from nemo_speechlm.kernels.linear import linear
from nemo_speechlm.modules.faster_layers import use_faster_layers


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
        width, heads = options.get("d_model", 0), options.get("n_heads", 4)  # NeMo's own error has no message
        if heads < 1 or width % heads:
            raise ValueError(f"MaskedConformer: d_model {width} is not a multiple of n_heads {heads}")
        options.setdefault("sync_max_audio_length", False)  # NeMo's: all processes wait for one another in each call
        super().__init__(**options)
        if not positions:
            if self.self_attention_model != "abs_pos":
                raise ValueError(
                    f"MaskedConformer: positions is false, and self_attention_model is {self.self_attention_model!r}; "
                    "expected 'abs_pos'"
                )
            self.pos_enc = NoPositions(options.get("dropout_pre_encoder", 0.1))
        for layer in self.layers:
            layer.conv.__class__ = MaskedConvolution
            if type(layer.self_attn) is RelPositionMultiHeadAttention:
                layer.self_attn.__class__ = RelativeAttention
            use_faster_layers(layer)


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
    """NeMo's convolution module of a Conformer layer; the statistics of its group norm leave padding out.

    On CPUs frames lie one after another, channels side by side: convolutions by frame are then matrix products, and
    the one along time takes a third of the time.
    """

    def forward(self, x: Tensor, pad_mask: Tensor | None = None, cache: Tensor | None = None) -> Any:
        """(B, T, D) and padding (B, T), True where padded -> (B, T, D)."""
        if cache is None and self.pointwise_activation == "glu_" and (is_fast(x) or is_fast_mixed(x)):
            return self._side_by_side(x, pad_mask)
        if cache is not None or pad_mask is None or not isinstance(self.batch_norm, nn.GroupNorm):
            return super().forward(x, pad_mask=pad_mask, cache=cache)
        x_BCT = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        x_BCT = self.depthwise_conv(x_BCT.masked_fill(pad_mask.unsqueeze(1), 0.0))
        x_BCT = self.activation(masked_group_norm(x_BCT, pad_mask, self.batch_norm))
        return self.pointwise_conv2(x_BCT).transpose(1, 2)

    def _side_by_side(self, x_BTD: Tensor, padding_BT: Tensor | None) -> Tensor:
        first, along, second = self.pointwise_conv1, self.depthwise_conv, self.pointwise_conv2
        x_BTC = F.glu(linear(x_BTD, first.weight.squeeze(2), first.bias), dim=-1)
        if padding_BT is not None:
            x_BTC = x_BTC.masked_fill(padding_BT.unsqueeze(2), 0.0)
        with full_precision():
            padded = F.pad(x_BTC.float(), (0, 0, along._left_padding, along._right_padding))
            weight = along.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            x_BCT = F.conv2d(padded.transpose(1, 2).unsqueeze(2), weight, along.bias, groups=along.groups).squeeze(2)
            x_BTC = self._normalized(x_BCT, padding_BT)
        return linear(self.activation(x_BTC), second.weight.squeeze(2), second.bias)

    def _normalized(self, x_BCT: Tensor, padding_BT: Tensor | None) -> Tensor:
        """(B, C, T) -> (B, T, C)."""
        if isinstance(self.batch_norm, nn.LayerNorm):
            return self.batch_norm(x_BCT.transpose(1, 2))
        if isinstance(self.batch_norm, nn.GroupNorm) and padding_BT is not None:
            return masked_group_norm(x_BCT, padding_BT, self.batch_norm).transpose(1, 2)
        return self.batch_norm(x_BCT).transpose(1, 2)


class RelativeAttention(RelPositionMultiHeadAttention):
    """NeMo's attention of a Conformer layer; on CPUs by our kernel, where an utterance attends to all of itself."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, pos_emb: Tensor,
        cache: Tensor | None = None,
    ) -> Any:  # fmt: skip
        """(B, T, D), the mask (B, T, T), True where hidden, and positions (1, 2T - 1, D) -> (B, T, D)."""
        B, T, D = query.shape
        seen = cache is None and pos_emb.shape[:2] == (1, 2 * T - 1) and key is query and value is query
        if not seen or not (is_fast(query, pos_emb) or is_fast_mixed(query, pos_emb)):
            return super().forward(query, key, value, mask, pos_emb, cache)
        padding = None
        if mask is not None:
            padding = mask.all(1)
            if not torch.equal(mask, padding.unsqueeze(1) | padding.unsqueeze(2)):  # a limited context
                return super().forward(query, key, value, mask, pos_emb, cache)
            padding = padding & ~padding.all(1, keepdim=True) if padding.any() else None
        q, k, v = (
            projection(query).view(B, T, self.h, self.d_k)
            for projection in (self.linear_q, self.linear_k, self.linear_v)
        )
        rows = self.linear_pos(pos_emb).view(2 * T - 1, self.h, self.d_k).transpose(0, 1)
        context = relative_attention(
            (q + self.pos_bias_u).transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            Positions(rows, T - 1, T - 1),
            padding,
            self.dropout_rate if self.training else 0.0,
            (q + self.pos_bias_v).transpose(1, 2),
        )
        return self.linear_out(context.reshape(B, T, D))


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

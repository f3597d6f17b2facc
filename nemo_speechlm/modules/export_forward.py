"""The encoder's forward pass as a graph: no branch or size that depends on the data, so that a trace holds for all.

Same weights and same numbers as the modules' own passes, by plain operations that ONNX has; what makes those fast
(kernels, chunks, padding that is not computed) is left out, since inference engines have their own optimizations.

Axis legend: B batch, C channels, T frames, D model width, H heads, K width of a head, R rows of the position table.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.modules.attention import RelativePositions, RelativeSelfAttention
from nemo_speechlm.modules.conformer import MaskedConformer
from nemo_speechlm.modules.front_end import ConvFrontEnd, MaskedInstanceNorm, MelFrontEnd
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.transformer import ConvPositions, LearnedPositions, RelativeTransformer, TransformerLayer


def check_exportable(*modules: nn.Module) -> None:
    """Raise unless front end and transformers are ours.

    Raises:
        SpeechLMError: naming what is not.
    """
    for module in modules:
        if isinstance(module, MaskedConformer):
            _check_conformer(module)
        elif not isinstance(module, ConvFrontEnd | MelFrontEnd | RelativeTransformer):
            raise SpeechLMError(f"an encoder with a {type(module).__name__} inside cannot be exported")
        if getattr(module, "released_padding", False):
            raise SpeechLMError(
                "the encoder has released_padding, by which an utterance depends on the padding of its batch; it "
                "cannot be exported: convert the checkpoint with --padding exact"
            )


def _check_conformer(conformer: MaskedConformer) -> None:
    kind, context = conformer.self_attention_model, list(conformer.att_context_size)
    other = None
    if kind not in ("abs_pos", "rel_pos"):
        other = f"self_attention_model is {kind} cannot be exported; expected abs_pos or rel_pos"
    elif context != [-1, -1]:
        other = f"att_context_size is {context} cannot be exported; expected [-1, -1]"
    if other:
        raise SpeechLMError(f"an encoder with a MaskedConformer inside whose {other}")


def front_end_frames(front_end: nn.Module, signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, S) and lengths (B,) -> features (B, T, D) and frames (B,)."""
    if not isinstance(front_end, ConvFrontEnd):
        return front_end(signal, length)
    x_BCT = signal
    for conv, norm, (_, kernel, stride) in zip(front_end.convs, front_end.norms, front_end.layers, strict=True):
        x_BCT = conv(x_BCT)
        length = torch.div(length - kernel, stride, rounding_mode="floor") + 1
        x_BCT = F.gelu(_instance_norm(norm, x_BCT, length) if isinstance(norm, MaskedInstanceNorm) else norm(x_BCT))
    return x_BCT.transpose(1, 2), length.clamp(min=0)


def transformer_states(transformer: nn.Module, x_BTD: Tensor, padding_BT: Tensor) -> Tensor:
    """The output (B, T, D) of a transformer of ours."""
    if isinstance(transformer, MaskedConformer):
        return _conformer_states(transformer, x_BTD, padding_BT)
    assert isinstance(transformer, RelativeTransformer)
    x = x_BTD.masked_fill(padding_BT.unsqueeze(2), 0.0)
    hidden_BT = padding_BT & ~padding_BT.all(1, keepdim=True)
    if transformer.position is not None:
        x = x + _positions(transformer.position, x, padding_BT)
    if transformer.input_norm is not None:
        x = transformer.input_norm(x)
    if isinstance(transformer.position, LearnedPositions):
        x = x.masked_fill(padding_BT.unsqueeze(2), 0.0)
    for layer in transformer.layers:
        assert isinstance(layer, TransformerLayer)
        x = _layer(layer, x, transformer.relative_positions, hidden_BT)
    return x if transformer.output_norm is None else transformer.output_norm(x)


def _conformer_states(conformer: MaskedConformer, x_BTD: Tensor, padding_BT: Tensor) -> Tensor:
    x, distances = conformer.pre_encode(x_BTD), None
    if conformer.self_attention_model == "rel_pos":
        x, distances = x * (conformer.xscale or 1.0), _distances(x)
    else:
        x, _ = conformer.pos_enc(x)
    hidden_BT = padding_BT & ~padding_BT.all(1, keepdim=True)
    hidden_BTT = hidden_BT.unsqueeze(1).expand(-1, hidden_BT.shape[1], -1)
    for layer in conformer.layers:
        x = layer(x=x, att_mask=hidden_BTT, pos_emb=distances, pad_mask=padding_BT)
    return x


def _distances(x_BTD: Tensor) -> Tensor:
    """NeMo's ``RelPositionalEncoding`` of the distances T - 1 to 1 - T, (1, 2T - 1, D); NeMo's own ends at some T."""
    T, D = x_BTD.shape[1:]
    distances = torch.arange(1 - T, T, device=x_BTD.device).flip(0).to(torch.float32)
    rates = torch.exp(torch.arange(0, D, 2, dtype=torch.float32, device=x_BTD.device) * (-math.log(1e4) / D))
    angles = distances.unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1).unsqueeze(0).to(x_BTD.dtype)


def _instance_norm(norm: MaskedInstanceNorm, x_BCT: Tensor, length: Tensor) -> Tensor:
    inside = (~padding_mask(length.clamp(min=1), x_BCT.shape[2])).unsqueeze(1).to(x_BCT.dtype)
    count = inside.sum(2, keepdim=True)
    mean = (x_BCT * inside).sum(2, keepdim=True) / count
    variance = ((x_BCT - mean) * inside).square().sum(2, keepdim=True) / count
    return (x_BCT - mean) * torch.rsqrt(variance + norm.epsilon) * norm.weight.view(-1, 1) + norm.bias.view(-1, 1)


def _positions(position: nn.Module, x_BTD: Tensor, padding_BT: Tensor) -> Tensor:
    if isinstance(position, ConvPositions):
        conv = position.conv
        x = F.conv1d(x_BTD.transpose(1, 2), conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)
        x = x[:, :, :-1] if position.surplus else x
        return F.gelu(x).transpose(1, 2)
    assert isinstance(position, LearnedPositions)
    frames = torch.arange(x_BTD.shape[1], device=x_BTD.device) + LearnedPositions.PAD_ROW + 1
    return position.table(torch.where(padding_BT, LearnedPositions.PAD_ROW, frames.unsqueeze(0)))


def _layer(layer: TransformerLayer, x: Tensor, relative: RelativePositions | None, hidden_BT: Tensor) -> Tensor:
    if layer.pre_norm:
        x = x + _attend(layer.self_attn, layer.self_attn_norm(x), relative, hidden_BT)
        return x + _feed_forward(layer, layer.final_norm(x))
    x = layer.self_attn_norm(x + _attend(layer.self_attn, x, relative, hidden_BT))
    return layer.final_norm(x + _feed_forward(layer, x))


def _feed_forward(layer: TransformerLayer, x: Tensor) -> Tensor:
    return _linear(layer.fc2, F.gelu(_linear(layer.fc1, x)))


def _linear(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, linear.weight, linear.bias)


def _attend(
    attention: RelativeSelfAttention, x_BTD: Tensor, relative: RelativePositions | None, hidden_BT: Tensor
) -> Tensor:
    B, T, _ = x_BTD.shape
    width = attention.q_proj.out_features // attention.n_heads
    q, k, v = (
        _linear(projection, x_BTD).view(B, T, attention.n_heads, width).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q = q * width**-0.5
    scores_BHTT = torch.matmul(q, k.transpose(2, 3))
    if relative is not None:
        table_RK = relative.table.weight if attention.norm_k is None else attention.norm_k(relative.table.weight)
        frames = torch.arange(T, device=x_BTD.device)
        farthest = relative.max_distance
        rows_TT = (frames.unsqueeze(1) - frames.unsqueeze(0)).clamp(-farthest, farthest - 1) + farthest
        index = rows_TT.unsqueeze(0).unsqueeze(0).expand(B, attention.n_heads, T, T)
        scores_BHTT = scores_BHTT + torch.matmul(q, table_RK.t()).gather(3, index)
    scores_BHTT = scores_BHTT.masked_fill(hidden_BT.unsqueeze(1).unsqueeze(1), float("-inf"))
    context = torch.matmul(scores_BHTT.softmax(dim=3), v).transpose(1, 2).reshape(B, T, attention.n_heads * width)
    return _linear(attention.out_proj, context)

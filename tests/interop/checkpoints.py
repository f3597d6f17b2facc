"""Checkpoints as fairseq writes them, of any size, with random weights."""

import argparse
from typing import Any

import torch

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
UNITS = [*SPECIAL, "SIL", "AA_B", "T_E", "<mask>"]
LETTERS = [*SPECIAL, "|", "A", "B", "<mask>"]
State = dict[str, torch.Tensor]


def front_end(channels: int = 12, kernels: tuple[int, ...] = (10, 3, 2), layer_norm: bool = False) -> State:
    state = {}
    for i, kernel in enumerate(kernels):
        state[f"feature_extractor.conv_layers.{i}.0.weight"] = torch.randn(channels, channels if i else 1, kernel)
        if i == 0 or layer_norm:
            for name in ("weight", "bias"):
                inner = "2.1" if layer_norm else "2"
                state[f"feature_extractor.conv_layers.{i}.{inner}.{name}"] = torch.randn(channels)
    state |= norm("layer_norm", channels)
    return state


def norm(name: str, width: int) -> State:
    return {f"{name}.weight": torch.randn(width), f"{name}.bias": torch.randn(width)}


def linear(name: str, out: int, into: int) -> State:
    return {f"{name}.weight": torch.randn(out, into), f"{name}.bias": torch.randn(out)}


def layers(prefix: str, count: int, width: int, ffn: int, head: int | None) -> State:
    state: State = {}
    for i in range(count):
        layer = f"{prefix}.layers.{i}"
        for projection in "qkv":
            state |= linear(f"{layer}.self_attn.{projection}_proj", width, width)
        state |= linear(f"{layer}.self_attn.out_proj", width, width)
        state |= norm(f"{layer}.self_attn_layer_norm", width) | norm(f"{layer}.final_layer_norm", width)
        state |= linear(f"{layer}.fc1", ffn, width) | linear(f"{layer}.fc2", width, ffn)
        if head:
            state |= norm(f"{layer}.norm_k", head)
    return state


def encoder(width: int, ffn: int, count: int, head: int | None = None, channels: int = 12, **front: Any) -> State:
    state = front_end(channels, **front) | linear("post_extract_proj", width, channels)
    state["mask_emb"] = torch.randn(width)
    state["encoder.pos_conv.0.bias"] = torch.randn(width)
    state["encoder.pos_conv.0.weight_g"] = torch.rand(1, 1, 16)
    state["encoder.pos_conv.0.weight_v"] = torch.randn(width, width // 4, 16)
    state |= norm("encoder.layer_norm", width) | layers("encoder", count, width, ffn, head)
    if head:
        state["encoder.pos_emb.pe_k.weight"] = torch.randn(40, head)
    return state


def speechlm(
    width: int = 24,
    ffn: int = 36,
    speech: int = 3,
    shared: int = 1,
    heads: int = 6,
    final: int = 5,
    pre_norm: bool = False,
) -> dict[str, Any]:
    """A whole pretraining checkpoint."""
    head = width // heads
    state = encoder(width, ffn, speech, head, layer_norm=pre_norm)
    state |= layers("unit_encoder", shared, width, ffn, head)
    state["unit_encoder.pos_emb.pe_k.weight"] = torch.randn(40, head)
    state["unit_encoder.embed_positions.weight"] = torch.randn(502, width)
    state |= norm("unit_encoder.layernorm_embedding", width)
    if pre_norm:
        state |= norm("unit_encoder.layer_norm", width)
    state["unit_embed_tokens.weight"] = torch.randn(len(UNITS), width)
    state["unit_encoder.embed_tokens.weight"] = state["unit_embed_tokens.weight"]
    state["unit_encoder.version"] = torch.tensor([3.0])
    for level in (0, 1):
        state |= linear(f"final_proj_list.{level}", final, width)
        state[f"label_embs_list.{level}"] = torch.randn(len(UNITS), final)
    state |= ctc_head("unit_encoder_ctc_head", width)
    model = {
        "_name": "speechlm",
        "label_rate": 50,
        "layer_norm_first": pre_norm,
        "conv_feature_layers": "[(12,10,5)] + [(12,3,4)] + [(12,2,2)]",
        "text_transformer": {"encoder": {"normalize_before": pre_norm, "layerdrop": 0.0}},
        "encoder_attention_heads": heads,
    }
    return {"args": None, "cfg": {"model": model, "task": {"normalize": pre_norm}}, "model": state, "task_state": {}}


def ctc_head(prefix: str, width: int) -> State:
    state = {f"{prefix}.1.weight": torch.randn(width, width, 2)} | norm(f"{prefix}.3.2", width)
    return state | linear(f"{prefix}.5", len(LETTERS), width)


def fine_tuned(**sizes: Any) -> dict[str, Any]:
    """A CTC checkpoint, with the configuration of its pretraining as fairseq's older code kept it."""
    pretrained = speechlm(**sizes)
    state = {f"w2v_encoder.w2v_model.{key}": value for key, value in pretrained["model"].items()}
    width = len(pretrained["model"]["mask_emb"])
    model = {
        "_name": "speechlm_ctc",
        "apply_mask": True,
        "mask_prob": 0.65,
        "mask_channel_prob": 0.5,
        "mask_channel_length": 8,
        "layerdrop": 0.05,
        "feature_grad_mult": 0.0,
        "w2v_args": argparse.Namespace(**pretrained["cfg"]["model"]),
    }
    return {
        "cfg": {"model": model, "task": {"normalize": False}},
        "model": state | ctc_head("w2v_encoder.proj", width),
    }


def write_dictionary(path, symbols):
    """A dictionary file of fairseq's."""
    path.write_text("".join(f"{symbol} {count}\n" for count, symbol in enumerate(symbols) if symbol not in SPECIAL))
    return path

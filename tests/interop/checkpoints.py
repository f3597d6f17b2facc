"""Checkpoints as fairseq writes them, of any size, with random weights."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.plan import Options

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
UNITS = [*SPECIAL, "SIL", "AA_B", "T_E", "<mask>"]
LETTERS = [*SPECIAL, "|", "A", "B", "<mask>"]
PIECES = [*SPECIAL, "▁", "a", "b", "ü", "."]
PHONES = [*SPECIAL, "AA", "T", "SIL"]
HIDDEN = [*SPECIAL, "0", "1", "2", "3", "4"]
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
    channels: int = 12,
    units: Sequence[str] = UNITS,
    letters: Sequence[str] = LETTERS,
) -> dict[str, Any]:
    """A whole pretraining checkpoint."""
    head = width // heads
    state = encoder(width, ffn, speech, head, channels, layer_norm=pre_norm)
    state |= layers("unit_encoder", shared, width, ffn, head)
    state["unit_encoder.pos_emb.pe_k.weight"] = torch.randn(40, head)
    state["unit_encoder.embed_positions.weight"] = torch.randn(502, width)
    state |= norm("unit_encoder.layernorm_embedding", width)
    if pre_norm:
        state |= norm("unit_encoder.layer_norm", width)
    state["unit_embed_tokens.weight"] = torch.randn(len(units), width)
    state["unit_encoder.embed_tokens.weight"] = state["unit_embed_tokens.weight"]
    state["unit_encoder.version"] = torch.tensor([3.0])
    for level in (0, 1):
        state |= linear(f"final_proj_list.{level}", final, width)
        state[f"label_embs_list.{level}"] = torch.randn(len(units), final)
    state |= ctc_head("unit_encoder_ctc_head", width, len(letters))
    model = {
        "_name": "speechlm",
        "label_rate": 50,
        "layer_norm_first": pre_norm,
        "conv_feature_layers": f"[({channels},10,5)] + [({channels},3,4)] + [({channels},2,2)]",
        "text_transformer": {"encoder": {"normalize_before": pre_norm, "layerdrop": 0.0}},
        "encoder_attention_heads": heads,
    }
    return {"args": None, "cfg": {"model": model, "task": {"normalize": pre_norm}}, "model": state, "task_state": {}}


def cleaned(**sizes: Any) -> dict[str, Any]:
    """The same without what only pretraining needs."""
    content = speechlm(**sizes)
    dropped = ("label_embs_list", "unit_embed_tokens", "unit_encoder.embed_tokens", "unit_encoder_ctc_head")
    content["model"] = {key: value for key, value in content["model"].items() if not key.startswith(dropped)}
    return content


def hubert(width: int = 8, ffn: int = 12, count: int = 2, heads: int = 2, channels: int = 4) -> dict[str, Any]:
    """HuBERT of fairseq's."""
    state = encoder(width, ffn, count, channels=channels) | {"label_embs_concat": torch.randn(3, 2)}
    cfg = {"_name": "hubert", "encoder_attention_heads": heads, "layer_norm_first": False}
    return {"cfg": {"model": cfg}, "model": state}


def wav2vec2(**sizes: int) -> dict[str, Any]:
    """wav2vec 2.0 of fairseq's."""
    content = hubert(**sizes)
    del content["model"]["label_embs_concat"]
    content["cfg"]["model"]["_name"] = "wav2vec2"
    width = len(content["model"]["mask_emb"])
    content["model"] |= (
        {"quantizer.vars": torch.randn(1, 8, 3)} | linear("project_q", 4, 6) | linear("final_proj", 4, width)
    )
    return content


def ctc_head(prefix: str, width: int, letters: int) -> State:
    state = {f"{prefix}.1.weight": torch.randn(width, width, 2)} | norm(f"{prefix}.3.2", width)
    return state | linear(f"{prefix}.5", letters, width)


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
        "model": state | ctc_head("w2v_encoder.proj", width, len(sizes.get("letters", LETTERS))),
    }


def translation(width=20, heads=5, count=3, pre_norm=False, relative=True, tied=False, tgt=PIECES, **encoder):
    """A translation checkpoint; ``encoder`` goes to :func:`speechlm`, without ``encoder_`` where it begins so."""
    pretrained = speechlm(**{name.removeprefix("encoder_"): value for name, value in encoder.items()})
    inner = len(pretrained["model"]["mask_emb"])
    state = {f"encoder.w2v_model.{key}": value for key, value in pretrained["model"].items()}
    head = width // heads if relative else None
    decoder = layers("decoder", count, width, 28, head)
    for i in range(count):
        layer = f"decoder.layers.{i}.encoder_attn"
        for name in ("q_proj", "out_proj", "k_proj", "v_proj"):
            decoder |= linear(f"{layer}.{name}", width, width)
        decoder |= norm(f"{layer}_layer_norm", width)
    decoder["decoder.embed_tokens.weight"] = torch.randn(len(tgt), width)
    decoder["decoder.output_projection.weight"] = (
        decoder["decoder.embed_tokens.weight"] if tied else torch.randn(len(tgt), width)
    )
    if relative:
        decoder["decoder.pos_emb.pe_k.weight"] = torch.randn(48, head)
    if pre_norm:
        decoder |= norm("decoder.layer_norm", width)
    decoder["decoder.version"] = torch.tensor([3.0])
    decoder["decoder.embed_positions._float_tensor"] = torch.zeros(1)
    if inner != width:
        decoder |= linear("encoder.proj", width, inner)
    model = {
        "_name": "speechlm_st_legacy",
        "apply_mask": True,
        "mask_prob": 0.5,
        "mask_length": 10,
        "mask_channel_prob": 0.0,
        "mask_channel_length": 8,
        "dropout": 0.0,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "layerdrop": 0.05,
        "dropout_input": 0.0,
        "feature_grad_mult": 0.0,
        "final_dropout": 0.1,
        "decoder_attention_heads": heads,
        "decoder_normalize_before": pre_norm,
        "decoder_layerdrop": 0.2,
        "share_decoder_input_output_embed": tied,
        "w2v_args": argparse.Namespace(**pretrained["cfg"]["model"]),
    }
    return {"cfg": {"model": argparse.Namespace(**model), "task": {"normalize": False}}, "model": state | decoder}


def conv(name, out, into, kernel):
    return {f"{name}.weight": torch.randn(out, into, kernel), f"{name}.bias": torch.randn(out)}


def text_to_unit(
    width=12, heads=3, ffn=10, kernel=5, layers=(3, 1), hidden=7, speakers=0, phones=PHONES, units=HIDDEN
):
    """As fairseq writes it."""
    state = {"encoder.pos_emb_alpha": torch.randn(1), "encoder.dec_pos_emb_alpha": torch.randn(1)}
    state["encoder.embed_tokens.weight"] = torch.randn(len(phones), width)
    state["encoder.embed_positions._float_tensor"] = torch.randn(1)
    for stack, count in zip(("encoder", "decoder"), layers, strict=True):
        for number in range(count):
            layer = f"encoder.{stack}_fft_layers.{number}"
            for projection in ("q", "k", "v", "out"):
                state |= linear(f"{layer}.self_attn.{projection}_proj", width, width)
            state |= norm(f"{layer}.layer_norm", width) | norm(f"{layer}.ffn.layer_norm", width)
            state |= conv(f"{layer}.ffn.ffn.0", ffn, width, kernel) | conv(f"{layer}.ffn.ffn.2", width, ffn, kernel)
    for name in ("duration", "pitch", "energy"):
        predictor = f"encoder.var_adaptor.{name}_predictor"
        state |= conv(f"{predictor}.conv1.0", hidden, width, 3) | conv(f"{predictor}.conv2.0", hidden, hidden, 3)
        state |= norm(f"{predictor}.ln1", hidden) | norm(f"{predictor}.ln2", hidden)
        state |= linear(f"{predictor}.proj", 1, hidden)
    for name in ("pitch", "energy"):
        state[f"encoder.var_adaptor.embed_{name}.weight"] = torch.randn(256, width)
    state |= linear("encoder.out_proj", len(units), width)
    model = {"_name": "fasttext2unit_s", "encoder_attention_heads": heads, "decoder_attention_heads": heads}
    model |= {"dropout": 0.2, "attention_dropout": 0.1, "var_pred_dropout": 0.5, "use_pitch": False}
    if speakers:
        state["encoder.embed_speaker.weight"] = torch.randn(speakers, 6)
        state |= linear("encoder.spk_emb_proj", width, width + 6)
        model["speaker_to_id"] = {f"s{number}": number for number in range(speakers)}
    return {"args": None, "cfg": {"model": model, "task": {}}, "model": state}


def save(content: Any, path: Path) -> Path:
    """Write a checkpoint; returns where."""
    torch.save(content, path)
    return path


def expect_refusal(content: Any, folder: Path, options: Options, message: str) -> None:
    """Convert a checkpoint that does not fit: the error names the file, and nothing is left behind."""
    path = save(content, folder / "x.pt")
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=rf"x\.pt: .*{message}"):
        convert(path, folder / "y.nemo", options)
    assert sorted(folder.iterdir()) == before, "nothing is left behind"


def write_dictionary(path, symbols):
    """A dictionary file of fairseq's."""
    path.write_text("".join(f"{symbol} {count}\n" for count, symbol in enumerate(symbols) if symbol not in SPECIAL))
    return path

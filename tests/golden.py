"""The released implementation's tensors at tiny size, and its parameters put into our modules."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nemo_speechlm.modules import ConvFrontEnd, RelativeTransformer, SpeechLMEncoder, UnitClassifier

DATA = Path(os.environ.get("NEMO_SPEECHLM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
GOLDEN = DATA.parent / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"the released code's tensors are not at {GOLDEN}")

RENAMED = {
    "feature_extractor.conv_layers": "front_end.convs",
    "layer_norm": "feature_norm",
    "post_extract_proj": "feature_proj",
    "mask_emb": "mask_emb",
    "encoder.pos_conv.0.bias": "speech_transformer.position.conv.bias",
    "encoder.pos_conv.0.weight_g": "speech_transformer.position.conv.parametrizations.weight.original0",
    "encoder.pos_conv.0.weight_v": "speech_transformer.position.conv.parametrizations.weight.original1",
    "encoder.pos_emb.pe_k": "speech_transformer.relative_positions.table",
    "encoder.layers": "speech_transformer.layers",
    "unit_encoder.embed_positions": "shared_transformer.position.table",
    "unit_encoder.layernorm_embedding": "shared_transformer.input_norm",
    "unit_encoder.pos_emb.pe_k": "shared_transformer.relative_positions.table",
    "unit_encoder.layers": "shared_transformer.layers",
    "unit_encoder.layer_norm": "shared_transformer.output_norm",
}


def load(name: str) -> dict[str, Any]:
    """One of the golden files."""
    return torch.load(GOLDEN / name, weights_only=True)


def rename(key: str, pre_norm: bool) -> str | None:
    """Our encoder's name of a released parameter, or None if it is not the encoder's (or is not used)."""
    if key.startswith("encoder.layer_norm."):
        module = "output_norm" if pre_norm else "input_norm"
        return key.replace("encoder.layer_norm", f"speech_transformer.{module}")
    for old in sorted(RENAMED, key=len, reverse=True):
        if key == old or key.startswith(old + "."):
            break
    else:
        return None
    key = RENAMED[old] + key[len(old) :]
    parts = key.split(".")
    if parts[0] == "front_end":
        _, _, layer, inner, *rest = parts
        return ".".join(["front_end", "convs" if inner == "0" else "norms", layer, rest[-1]])
    if "norm_k" in key:
        return key.replace(".norm_k", ".self_attn.norm_k") if pre_norm else None
    return key.replace("self_attn_layer_norm", "self_attn_norm").replace("final_layer_norm", "final_norm")


def released_encoder(folder: str) -> tuple[SpeechLMEncoder, dict[str, Tensor]]:
    """Our encoder with the released parameters, in eval mode, and all of those parameters."""
    cfg = json.loads((GOLDEN / folder / "cfg.json").read_text())["model"]
    released = load(f"{folder}/checkpoint.pt")["model"]
    pre_norm = cfg["layer_norm_first"]
    text = cfg["text_transformer"]["encoder"]
    dim = cfg["encoder_embed_dim"]
    common = {"d_model": dim, "dropout": 0.0, "attention_dropout": 0.0}
    encoder = SpeechLMEncoder(
        front_end=ConvFrontEnd(
            layers=eval(cfg["conv_feature_layers"]),
            norm="group" if cfg["extractor_mode"] == "default" else "layer",
            bias=cfg["conv_bias"],
            gradient_scale=cfg["feature_grad_mult"],
            released_padding=True,
        ),
        speech_transformer=RelativeTransformer(
            n_layers=cfg["encoder_layers"],
            n_heads=cfg["encoder_attention_heads"],
            d_ff=cfg["encoder_ffn_embed_dim"],
            position="conv",
            pre_norm=pre_norm,
            **common,
        ),
        shared_transformer=RelativeTransformer(
            n_layers=text["layers"],
            n_heads=text["attention_heads"],
            d_ff=text["ffn_embed_dim"],
            position="learned",
            pre_norm=text["normalize_before"],
            **common,
        ),
        d_model=dim,
        dropout_input=0.0,
    )
    state = {ours: v for k, v in released.items() if (ours := rename(k, pre_norm))}
    # Instance norm's parameters sit in norms.0 as weight and bias, layer norm's too: nothing else to move.
    missing, unexpected = encoder.load_state_dict(state, strict=False)
    assert not missing, missing
    assert not unexpected, unexpected
    return encoder.eval(), released


def released_classifiers(released: dict[str, Tensor]) -> list[UnitClassifier]:
    """The unit classifiers of the speech and of the shared transformer."""
    classifiers = []
    for level in (0, 1):
        weight, vectors = released[f"final_proj_list.{level}.weight"], released[f"label_embs_list.{level}"]
        classifier = UnitClassifier(weight.shape[1], len(vectors), weight.shape[0])
        classifier.load_state_dict(
            {"proj.weight": weight, "proj.bias": released[f"final_proj_list.{level}.bias"], "unit_vectors": vectors}
        )
        classifiers.append(classifier)
    return classifiers


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def copy_into(module: nn.Module, prefix: str, released: dict[str, Tensor], **names: str) -> None:
    """Load ``module``'s parameters from the released ones: ours=theirs, by name behind the prefix."""
    module.load_state_dict({ours.replace("__", "."): released[prefix + theirs] for ours, theirs in names.items()})

"""Settings and weights of an encoder as the released code names them."""

import re
from typing import Any

import torch
from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.parts.encoder_names import RENAMED
from nemo_speechlm.models.common.pretrained import PretrainedFile

_DISTANCE = 160
"""Of relative positions: the released code knows no other."""

_FINAL_DIM = 256

_BACK = sorted(((ours, theirs) for theirs, ours in RENAMED.items()), key=lambda pair: -len(pair[0]))


def encoder_settings(model: PretrainedFile) -> dict[str, Any]:
    """``cfg.model`` of fairseq's checkpoint."""
    encoder = model.cfg.encoder
    front_end, speech, shared = encoder.front_end, encoder.speech_transformer, encoder.shared_transformer
    for part, target in (
        (encoder, "SpeechLMEncoder"),
        (front_end, "ConvFrontEnd"),
        (speech, "RelativeTransformer"),
        (shared, "RelativeTransformer"),
    ):
        if not str(part.get("_target_", "")).endswith(f".{target}"):
            raise InputError(f"has a {part.get('_target_')}; the released code has a {target} only", model.path)
    for name, part, position in (("speech", speech, "conv"), ("shared", shared, "learned")):
        expected = {"position": position, "max_distance": _DISTANCE}
        for key, value in expected.items():
            found = part.get(key, _DISTANCE if key == "max_distance" else None)
            if found != value:
                raise InputError(
                    f"{key} of its {name} transformer is {found!r}, the released code's {value!r}", model.path
                )
    layers = [tuple(layer) for layer in front_end.get("layers") or _default_layers()]
    masking = model.cfg.get("masking") or {}
    return {
        "_name": "speechlm",
        "label_rate": _label_rate(model),
        "extractor_mode": "default" if front_end.get("norm", "group") == "group" else "layer_norm",
        "encoder_layers": speech.n_layers,
        "encoder_embed_dim": encoder.d_model,
        "encoder_ffn_embed_dim": speech.d_ff,
        "encoder_attention_heads": speech.n_heads,
        "activation_fn": "gelu",
        "layer_type": "transformer",
        **{name: speech.get(name, default) for name, default in _DROPOUTS.items()},
        "encoder_layerdrop": speech.get("layerdrop", 0.0),
        "dropout_input": encoder.get("dropout_input", 0.1),
        "dropout_features": encoder.get("dropout_input", 0.1),
        "final_dim": (model.cfg.get("unit_classifier") or {}).get("final_dim", _FINAL_DIM),
        "untie_final_proj": True,
        "layer_norm_first": speech.get("pre_norm", False),
        "conv_feature_layers": repr(layers),
        "conv_bias": front_end.get("bias", False),
        "logit_temp": (model.cfg.get("unit_classifier") or {}).get("temperature", 0.1),
        "target_glu": False,
        "feature_grad_mult": front_end.get("gradient_scale", 1.0),
        "mask_length": masking.get("length", 10),
        "mask_prob": masking.get("prob", 0.8),
        "conv_pos": speech.get("conv_kernel", 128),
        "conv_pos_groups": speech.get("conv_groups", 16),
        "skip_masked": False,
        "skip_nomask": False,
        "checkpoint_activations": False,
        "required_seq_len_multiple": 2,
        "use_rel_pos_enc": True,
        "scaling_for_att": 32.0 if speech.get("pre_norm", False) else 1.0,  # only keeps fp16 from overflowing
        "text_transformer": {
            "activation_fn": "gelu",
            **{name: shared.get(name, default) for name, default in _DROPOUTS.items()},
            "adaptive_input": False,
            "encoder": {
                "embed_path": None,
                "embed_dim": encoder.d_model,
                "ffn_embed_dim": shared.d_ff,
                "layers": shared.n_layers,
                "attention_heads": shared.n_heads,
                "normalize_before": shared.get("pre_norm", False),
                "learned_pos": True,
                "layerdrop": shared.get("layerdrop", 0.0),
                "layers_to_keep": None,
            },
            "max_source_positions": shared.get("max_frames", 3000),
            "layernorm_embedding": True,
            "no_token_positional_embeddings": False,
            "no_scale_embedding": True,
            "checkpoint_activations": False,
            "offload_activations": False,
            "quant_noise": {"pq": 0.0, "pq_block_size": 8, "scalar": 0.0},
            "min_params_to_wrap": 100000000,
            "relu_dropout": 0.0,
            "export": False,
        },
        "add_unit_encoder": True,
        "add_decoder": False,
        "add_text_ctc": True,
        "text_ctc_conv_kernel": 2,
        "mask_u2t": True,
        "compute_mum": False,
        "mix_with_unit": True,
        "use_pred_unit": False,
        "l2_embedding": False,
    }


_DROPOUTS = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.0}


def _default_layers() -> Any:
    from nemo_speechlm.modules.front_end import WAV2VEC2_LAYERS

    return WAV2VEC2_LAYERS


def _label_rate(model: PretrainedFile) -> float:
    # The inventory is in the file beside the config; only the ratio of rates matters, and inference has no labels.
    rate = model.cfg.get("text_frame_rate") or 50
    return int(rate) if float(rate).is_integer() else float(rate)


def encoder_weights(model: PretrainedFile) -> dict[str, Tensor]:
    """The weights of an encoder under the released code's names."""
    layer_norm = model.cfg.encoder.front_end.get("norm", "group") == "layer"
    weights = {released_name(name, layer_norm): value for name, value in model.part("encoder").items()}
    # Post-norm layers of the released code own a norm that they do not use; its state dict wants it.
    for name in list(weights):
        layer, found, _ = name.partition(".self_attn.k_proj.weight")
        if found and f"{layer}.norm_k.weight" not in weights:
            table = weights.get(f"{name.split('.layers.')[0]}.pos_emb.pe_k.weight")
            if table is not None:
                weights[f"{layer}.norm_k.weight"] = torch.ones(table.shape[1])
                weights[f"{layer}.norm_k.bias"] = torch.zeros(table.shape[1])
    weights["unit_encoder.version"] = torch.tensor([3.0])
    width = len(weights["mask_emb"])
    for number, level in enumerate(("speech", "shared")):
        head = model.part(f"unit_classifiers.{level}.proj")
        # Inference has this parameter without using it.
        weights[f"final_proj_list.{number}.weight"] = head.get("weight", torch.zeros(_FINAL_DIM, width))
        weights[f"final_proj_list.{number}.bias"] = head.get("bias", torch.zeros(_FINAL_DIM))
    return weights


def released_name(name: str, layer_norm: bool) -> str:
    """The released code's name of one of our encoder's parameters.

    Args:
        name: ours.
        layer_norm: whether each convolution has a layer norm.
    """
    if found := re.match(r"front_end\.(convs|norms)\.(\d+)\.(.*)", name):
        inner = "0" if found[1] == "convs" else "2.1" if layer_norm else "2"
        return f"feature_extractor.conv_layers.{found[2]}.{inner}.{found[3]}"
    if found := re.match(r"speech_transformer\.(?:input|output)_norm\.(.*)", name):
        return f"encoder.layer_norm.{found[1]}"
    for ours, theirs in _BACK:
        if name == ours or name.startswith(ours + "."):
            rest = (
                name[len(ours) :].replace(".self_attn.norm_k", ".norm_k").replace(".self_attn_norm", _ATTENTION_NORM)
            )
            return theirs + rest.replace(".final_norm", ".final_layer_norm")
    raise InputError(f"its parameter {name} has no counterpart in the released code")


_ATTENTION_NORM = ".self_attn_layer_norm"

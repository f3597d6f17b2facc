"""Released translation models (fairseq's speech-to-text with a SpeechLM encoder): their decoder, read and written."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from nemo_speechlm.data.text.target_vocabulary import SPECIAL
from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.parts.fine_tuned import fine_tuned_checkpoint, fine_tuning_settings
from nemo_speechlm.interop.reading import dictionaries
from nemo_speechlm.interop.reading.shown import shown

if TYPE_CHECKING:
    from nemo_speechlm.interop.plan import Options, Plan
    from nemo_speechlm.models.common.pretrained import PretrainedFile

_RENAMED = {
    "embed_tokens": "embedding",
    "output_projection": "output",
    "pos_emb.pe_k": "relative_positions.table",
    "layer_norm": "output_norm",
}
_IN_LAYER = {
    "self_attn_layer_norm": "self_attn_norm",
    "encoder_attn_layer_norm": "cross_attn_norm",
    "encoder_attn": "cross_attn",
    "final_layer_norm": "final_norm",
    "norm_k": "self_attn.norm_k",
}
_BACK_IN_LAYER = {ours: theirs for theirs, ours in _IN_LAYER.items()}

_ONLY = {
    "decoder_learned_pos": False,
    "no_scale_embedding": False,
    "layernorm_embedding": False,
    "adaptive_input": False,
    "no_cross_attention": False,
    "cross_self_attention": False,
    "activation_fn": "gelu",
}
"""Settings of fairseq's that change the decoder's computation, with the value that ours has."""

SPACE = "▁"
"""The space of SentencePiece, which made the released models' characters."""


def decoder_name(key: str) -> str | None:
    """Our decoder's name of a parameter of fairseq's; None where it has none.

    >>> decoder_name("layers.3.encoder_attn.k_proj.bias")
    'layers.3.cross_attn.k_proj.bias'
    """
    for theirs, ours in _RENAMED.items():
        if key.startswith(theirs + "."):
            return ours + key[len(theirs) :]
    if found := re.fullmatch(r"(layers\.\d+)\.(\w+)(\..*)", key):
        return f"{found[1]}.{_IN_LAYER.get(found[2], found[2])}{found[3]}"
    return None


def released_decoder_name(name: str) -> str:
    """Fairseq's name of a parameter of our decoder.

    >>> released_decoder_name("layers.0.self_attn.norm_k.weight")
    'layers.0.norm_k.weight'
    """
    for theirs, ours in _RENAMED.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    if found := re.fullmatch(r"(layers\.\d+)\.(self_attn\.norm_k|\w+)(\..*)", name):
        return f"{found[1]}.{_BACK_IN_LAYER.get(found[2], found[2])}{found[3]}"
    raise InputError(f"its parameter decoder.{name} has no counterpart in the released code")


def fill_plan(plan: "Plan", options: "Options") -> None:
    """Add decoder and characters to the plan of a translation model's encoder.

    Raises:
        InputError: if a setting has no counterpart here, or the dictionary is missing.
    """
    settings, weights = plan.source.fine_tuning, plan.source.weights
    for setting, value in _ONLY.items():
        if settings.get(setting, value) != value:
            raise InputError(f"its setting {setting} is {shown(settings[setting])}; only {value!r} can be converted")
    config = _decoder_config(plan)
    for key in weights:
        theirs = key.removeprefix("decoder.")
        if theirs == key:
            if key.startswith("encoder.proj."):
                plan.put(key.replace("encoder.proj.", "encoder_proj."), key)
        elif ".norm_k." in key and not config["pre_norm"]:
            plan.left[key] = "post-norm layers own it without using it"
        elif theirs == "embed_positions._float_tensor":
            plan.left[key] = "remembers a type"
        elif (ours := decoder_name(theirs)) is not None:
            plan.put(f"decoder.{ours}", key)
    size = len(weights["decoder.embed_tokens.weight"])
    labels, leading_space = _labels(plan, options, size)
    gradient = float(settings.get("feature_grad_mult", 1.0))
    plan.config["encoder"]["front_end"]["gradient_scale"] = gradient or 1.0
    plan.config |= {
        "task": "translation",
        "labels": labels,
        "leading_space": leading_space,
        "final_dropout": float(settings.get("final_dropout") or 0.0),
        "freeze_front_end": gradient == 0,
        "label_smoothing": 0.1,
        "decoder": config,
        "decoding": {"beam_size": 5, "length_penalty": 1.0, "max_length": 512},
    }


def _decoder_config(plan: "Plan") -> dict[str, Any]:
    settings = plan.source.fine_tuning
    _, d_model = _shape(plan, "decoder.embed_tokens.weight")
    d_ff, _ = _shape(plan, "decoder.layers.0.fc1.weight")
    _, encoder_dim = _shape(plan, "decoder.layers.0.encoder_attn.k_proj.weight")
    numbers = {
        int(found[1])
        for key in plan.source.weights
        if (found := re.fullmatch(r"decoder\.layers\.(\d+)\.fc1\.weight", key))
    }
    if numbers != set(range(len(numbers))):
        raise InputError(f"has decoder layers {shown(sorted(numbers))} only")
    heads, max_distance = settings.get("decoder_attention_heads"), 0
    if "decoder.pos_emb.pe_k.weight" in plan.source.weights:
        rows, width = _shape(plan, "decoder.pos_emb.pe_k.weight")
        heads, max_distance = d_model // width, rows // 2
    if not isinstance(heads, int) or heads < 1 or d_model % heads:
        raise InputError(f"its number of decoder heads is {shown(heads)}; expected a divisor of its width, {d_model}")
    pre_norm = "decoder.layer_norm.weight" in plan.source.weights
    if bool(settings.get("decoder_normalize_before", pre_norm)) != pre_norm:
        raise InputError(
            f"its setting decoder_normalize_before is {shown(settings['decoder_normalize_before'])}, but "
            f"decoder.layer_norm is {'there' if pre_norm else 'missing'}"
        )
    return {
        "_target_": "nemo_speechlm.modules.RelativeDecoder",
        "n_layers": len(numbers),
        "d_model": d_model,
        "n_heads": heads,
        "d_ff": d_ff,
        "encoder_dim": encoder_dim,
        "pre_norm": pre_norm,
        "dropout": float(settings.get("decoder_dropout") or 0.0),
        "attention_dropout": float(settings.get("decoder_attention_dropout") or 0.0),
        "activation_dropout": float(settings.get("decoder_activation_dropout") or 0.0),
        "layerdrop": float(settings.get("decoder_layerdrop") or 0.0),
        "max_distance": max_distance,
        "absolute_positions": not settings.get("no_token_positional_embeddings", False),
        "tie_embeddings": bool(settings.get("share_decoder_input_output_embed", False)),
        "max_length": int(settings.get("max_target_positions") or 1024),
    }


def _labels(plan: "Plan", options: "Options", size: int) -> tuple[list[str], bool]:
    """The symbols behind the special ones, and whether texts begin with a space."""
    if options.label_dictionary is not None:
        symbols = dictionaries.read_dictionary(options.label_dictionary, size)
    else:
        names = ("target_dictionary", "tgt_dict")
        symbols = next((s for name in names if len(s := plan.source.dictionaries.get(name, [])) == size), [])
        if not symbols:
            raise InputError(
                f"holds no dictionary of the {size} tokens that it writes; give the file: --label-dictionary dict.txt"
            )
    if tuple(symbols[: len(SPECIAL)]) != SPECIAL:
        raise InputError(f"its dictionary begins with {' '.join(symbols[:4])}, not {' '.join(SPECIAL)}")
    own = dictionaries.lowered(symbols[4:]) if options.lowercase else symbols[4:]
    space = next((mark for mark in (SPACE, "|") if mark in own), None)
    return [" " if symbol == space else symbol for symbol in own], space == SPACE


def _shape(plan: "Plan", name: str) -> Sequence[int]:
    value = plan.source.weights.get(name)
    if value is None or value.dim() != 2:
        raise InputError(f"has no matrix {name}")
    return tuple(value.shape)


# --- and back -------------------------------------------------------------------------------------------------------


def translation_checkpoint(model: "PretrainedFile", encoder: dict[str, Any], pretraining: dict[str, Any]) -> dict:
    """The checkpoint that fairseq would have written for a translation model.

    Args:
        model: the ``.nemo`` file.
        encoder: its encoder's parameters under fairseq's names.
        pretraining: ``cfg`` of a checkpoint of the encoder alone.

    Returns:
        the checkpoint. The heads of pretraining, which the released checkpoints carry along, are not in it.

    Raises:
        InputError: if its decoder is of another kind than the released code's.
    """
    decoder = model.cfg.decoder
    if not str(decoder.get("_target_", "")).endswith(".RelativeDecoder"):
        raise InputError(f"has a {decoder.get('_target_')}; the released code has a RelativeDecoder only", model.path)
    if decoder.get("max_distance", 24) not in (0, 24):
        raise InputError(f"max_distance of its decoder is {decoder.max_distance}, the released code's 24", model.path)
    weights = {f"encoder.w2v_model.{name}": value for name, value in encoder.items()}
    weights |= {f"encoder.proj.{name}": value for name, value in model.part("encoder_proj").items()}
    own = model.part("decoder")
    weights |= {f"decoder.{released_decoder_name(name)}": value for name, value in own.items()}
    weights["decoder.version"] = encoder["unit_encoder.version"]
    weights["decoder.embed_positions._float_tensor"] = encoder["unit_encoder.version"].new_ones(1)
    table = own.get("relative_positions.table.weight")
    for name in own if not decoder.get("pre_norm", False) else ():
        if table is not None and (found := re.fullmatch(r"(layers\.\d+)\.fc1\.weight", name)):
            weights[f"decoder.{found[1]}.norm_k.weight"] = table.new_ones(table.shape[1])
            weights[f"decoder.{found[1]}.norm_k.bias"] = table.new_zeros(table.shape[1])
    settings = _settings(model.cfg, own, pretraining)
    task = {"_name": "speech_to_text", "max_target_positions": settings["max_target_positions"]}
    task["normalize"] = pretraining["task"]["normalize"]
    return fine_tuned_checkpoint(settings, task, weights)


def _settings(cfg: DictConfig, own: dict[str, Any], pretraining: dict[str, Any]) -> dict[str, Any]:
    decoder = cfg.decoder
    d_model = own["embedding.weight"].shape[1]
    return {
        "_name": "speechlm_st_legacy",
        **fine_tuning_settings(cfg, pretraining, cfg.get("final_dropout", 0.0)),
        "activation_fn": "gelu",
        "use_rel_pos_enc": "relative_positions.table.weight" in own,
        "encoder_embed_dim": decoder.get("encoder_dim") or d_model,
        "decoder_embed_dim": d_model,
        "decoder_output_dim": d_model,
        "decoder_ffn_embed_dim": own["layers.0.fc1.weight"].shape[0],
        "decoder_layers": sum(name.endswith(".fc1.weight") for name in own),
        "decoder_layerdrop": decoder.get("layerdrop", 0.0),
        "decoder_attention_heads": decoder.get("n_heads", 8),
        "decoder_learned_pos": False,
        "decoder_normalize_before": decoder.get("pre_norm", False),
        "no_token_positional_embeddings": not decoder.get("absolute_positions", True),
        "decoder_dropout": decoder.get("dropout", 0.1),
        "decoder_attention_dropout": decoder.get("attention_dropout", 0.0),
        "decoder_activation_dropout": decoder.get("activation_dropout", 0.0),
        "share_decoder_input_output_embed": decoder.get("tie_embeddings", False),
        "max_target_positions": decoder.get("max_length", 1024),
    }

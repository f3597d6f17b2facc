"""The config of our encoder for given weights: sizes come from the tensors, the rest from the settings."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading.shown import shown

Weights = Mapping[str, Tensor]
Settings = Mapping[str, Any]

_ONLY = {
    "layer_type": ("transformer",),
    "activation_fn": ("gelu",),
    "pos_enc_type": ("abs",),
    "attn_type": ("",),
    "conv_pos_batch_norm": (False,),
    "pos_conv_depth": (1,),
    "l2_embedding": (False,),
    "compute_mum": (False,),
}
"""Settings of fairseq's that change the computation, with the values that ours has a counterpart of."""

_STRIDES = {10: 5, 3: 2, 2: 2}
_MAX_LAYERS, _MAX_NOTATION = 100, 1000


def number(settings: Settings, name: str, default: float) -> float:
    """A setting that goes into the config of our model as it is.

    Raises:
        InputError: if it is no number.
    """
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"its setting {name} is {shown(value)}, expected a number")
    return value


def encoder_config(
    weights: Weights, settings: Settings, released_padding: bool, speech_layers: int | None = None
) -> dict[str, Any]:
    """The config of :class:`~nemo_speechlm.modules.SpeechLMEncoder`.

    Args:
        weights: parameters under fairseq's names.
        settings: ``cfg.model`` of fairseq's checkpoint; what is missing in it takes fairseq's defaults.
        released_padding: see :class:`~nemo_speechlm.modules.ConvFrontEnd`.
        speech_layers: for HuBERT and wav2vec 2.0: how many of the layers become the speech transformer.

    Raises:
        InputError: if a setting has no counterpart here, or a size can neither be seen nor read.
    """
    for name, allowed in _ONLY.items():
        if settings.get(name, allowed[0]) not in allowed:
            raise InputError(f"its setting {name} is {shown(settings[name])}; only {allowed[0]!r} can be converted")
    shared_by_split = speech_layers is not None
    pre_norm = bool(settings.get("layer_norm_first", "unit_encoder.layer_norm.weight" in weights))
    d_model = _shape(weights, "encoder.layers.0.fc1.weight")[1]
    speech = _transformer(weights, "encoder", settings, settings.get("encoder_attention_heads"), pre_norm)
    kernel = _shape(weights, "encoder.pos_conv.0.weight_v")
    speech |= {
        "position": "conv",
        "conv_kernel": kernel[2],
        "conv_groups": d_model // kernel[1],
        "layerdrop": float(settings.get("encoder_layerdrop", 0.0)),
    }
    if shared_by_split:
        total = speech["n_layers"]
        if not 1 <= speech_layers < total:  # type: ignore[operator]
            raise InputError(f"{speech_layers} of its {total} layers as speech transformer; expected 1 to {total - 1}")
        shared = speech | {"n_layers": total - speech_layers, "position": None, "input_norm": False}  # type: ignore[operator]
        for name in ("conv_kernel", "conv_groups"):
            del shared[name]
        speech |= {"n_layers": speech_layers, "output_norm": False}
    else:
        text = settings.get("text_transformer") or {}
        if not isinstance(text, dict) or not isinstance(text.get("encoder") or {}, dict):
            raise InputError(f"its setting text_transformer is {shown(text)}, expected a table with one of an encoder")
        own = {**settings, **{name: text[name] for name in _DROPOUTS if name in text}}
        inner = text.get("encoder") or {}
        shared_pre_norm = bool(inner.get("normalize_before", "unit_encoder.layer_norm.weight" in weights))
        shared = _transformer(weights, "unit_encoder", own, inner.get("attention_heads"), shared_pre_norm)
        positions = _shape(weights, "unit_encoder.embed_positions.weight")[0]
        shared |= {
            "position": "learned",
            "max_frames": positions - 2,
            "layerdrop": float(inner.get("layerdrop", speech["layerdrop"])),
        }
    return {
        "_target_": "nemo_speechlm.modules.SpeechLMEncoder",
        "d_model": d_model,
        "dropout_input": float(settings.get("dropout_input", 0.0)),
        "project_features": "post_extract_proj.weight" in weights,
        "front_end": _front_end(weights, settings) | {"released_padding": released_padding},
        "speech_transformer": speech,
        "shared_transformer": shared,
    }


_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")


def _transformer(weights: Weights, prefix: str, settings: Settings, heads: Any, pre_norm: bool) -> dict[str, Any]:
    d_ff, d_model = _shape(weights, f"{prefix}.layers.0.fc1.weight")
    config: dict[str, Any] = {
        "_target_": "nemo_speechlm.modules.RelativeTransformer",
        "n_layers": _count(weights, rf"{prefix}\.layers\.(\d+)\.fc1\.weight"),
        "d_model": d_model,
        "d_ff": d_ff,
        "pre_norm": pre_norm,
        "max_distance": 0,
    }
    config |= {name: float(settings.get(name, 0.0)) for name in _DROPOUTS}
    table = weights.get(f"{prefix}.pos_emb.pe_k.weight")
    if table is not None:
        heads = d_model // table.shape[1]
        config["max_distance"] = len(table) // 2
    if not isinstance(heads, int) or heads < 1 or d_model % heads:
        raise InputError(
            f"its number of attention heads is {shown(heads)}; expected a divisor of its width, {d_model}"
        )
    return config | {"n_heads": heads}


def _front_end(weights: Weights, settings: Settings) -> dict[str, Any]:
    name = "feature_extractor.conv_layers.{}.0.weight"
    shapes = [
        _shape(weights, name.format(layer))
        for layer in range(_count(weights, r"feature_extractor\.conv_layers\.(\d+)\.0\.weight"))
    ]
    seen = [(shape[0], shape[2]) for shape in shapes]
    if settings.get("conv_feature_layers"):
        layers = parse_layers(settings["conv_feature_layers"])
        if [(channels, kernel) for channels, kernel, _ in layers] != seen:
            raise InputError(
                f"its setting conv_feature_layers is {layers}, its weights have (channels, kernel) {seen}"
            )
    elif all(kernel in _STRIDES for _, kernel in seen):
        layers = [(channels, kernel, _STRIDES[kernel]) for channels, kernel in seen]
    else:
        raise InputError(f"the strides of its convolutions are unknown; their (channels, kernel) are {seen}")
    return {
        "_target_": "nemo_speechlm.modules.ConvFrontEnd",
        "layers": [list(layer) for layer in layers],
        "norm": "layer"
        if any(re.match(r"feature_extractor\.conv_layers\.1\.2\.", key) for key in weights)
        else "group",
        "bias": "feature_extractor.conv_layers.0.0.bias" in weights,
        "gradient_scale": float(settings.get("feature_grad_mult", 1.0)) or 1.0,
    }


def parse_layers(text: Any) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution from fairseq's notation, ``[(512,10,5)] + [(512,3,2)] * 4``.

    Raises:
        InputError: if it is anything but lists of numbers, added and repeated.
    """
    try:
        if len(text) > _MAX_NOTATION:
            raise ValueError("too long")
        layers: Any = _arithmetic(ast.parse(text, mode="eval").body) if isinstance(text, str) else text
        checked = [tuple(map(int, layer)) if len(layer) == 3 else () for layer in layers]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        checked = []
    if not checked or not all(len(layer) == 3 and min(layer) > 0 for layer in checked):
        raise InputError(
            f"its setting conv_feature_layers is {shown(text)}, expected [(channels, kernel, stride), ...]"
        )
    return checked  # type: ignore[return-value]


def _arithmetic(node: ast.expr) -> list[Any] | int:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _arithmetic(node.left), _arithmetic(node.right)
        if not isinstance(left, list) or not isinstance(right, list):
            raise ValueError("not two lists")
        return left + right
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _arithmetic(node.left), _arithmetic(node.right)
        if not isinstance(left, list) or not isinstance(right, int) or len(left) * right > _MAX_LAYERS:
            raise ValueError("not a list, a few times")
        return left * right
    value = ast.literal_eval(node)
    if not isinstance(value, list | int):
        raise ValueError("neither a list nor a number")
    return value


def _shape(weights: Weights, name: str) -> tuple[int, ...]:
    if name not in weights:
        raise InputError(f"has no parameter {name}")
    return tuple(weights[name].shape)


def _count(weights: Weights, pattern: str) -> int:
    numbers = {int(found[1]) for key in weights if (found := re.fullmatch(pattern, key))}
    if numbers != set(range(len(numbers))) or not numbers:
        first = next(number for number in range(len(numbers) + 1) if number not in numbers)
        raise InputError(f"has no parameters {pattern!r} for {first}, the first that is missing")
    return len(numbers)

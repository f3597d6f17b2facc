"""Folders that transformers wrote: config.json and weights, under fairseq's names."""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading.kinds import WEIGHTS_FILES, Kind, Source, named_tensors, naming
from nemo_speechlm.interop.reading.shown import shown
from nemo_speechlm.interop.reading.torch_file import read_torch_file

_HUGGING_FACE = [
    (r"^(hubert|wav2vec2)\.", ""),
    (r"^(feature_extractor\.conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm\.", r"\1.2."),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^encoder\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
    (r"^(encoder\.pos_conv\.0)\.parametrizations\.weight\.original0$", r"\1.weight_g"),
    (r"^(encoder\.pos_conv\.0)\.parametrizations\.weight\.original1$", r"\1.weight_v"),
    (r"^(encoder\.layers\.\d+)\.attention\.", r"\1.self_attn."),
    (r"^(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"^(encoder\.layers\.\d+)\.feed_forward\.intermediate_dense\.", r"\1.fc1."),
    (r"^(encoder\.layers\.\d+)\.feed_forward\.output_dense\.", r"\1.fc2."),
]


def fairseq_name(key: str) -> str:
    """Fairseq's name of a parameter of Hugging Face's ``HubertModel`` or ``Wav2Vec2Model``."""
    for pattern, replacement in _HUGGING_FACE:
        key = re.sub(pattern, replacement, key)
    return key


_MODEL_TYPES = {"hubert": Kind.HUBERT, "wav2vec2": Kind.WAV2VEC2}


def read_folder(folder: Path) -> Source:
    """Read a folder with ``config.json`` and weights."""
    config = _json(folder / "config.json")
    kind = _MODEL_TYPES.get(str(config.get("model_type")))
    if kind is None:
        known = " or ".join(map(repr, _MODEL_TYPES))
        raise InputError(f"model_type is {shown(config.get('model_type'))}, expected {known}", folder / "config.json")
    weights = {fairseq_name(key): value for key, value in _folder_weights(folder).items()}
    normalize = _normalize(folder)
    settings = _settings(config, folder / "config.json")
    return Source(folder, kind, weights, "", settings, {}, bool(normalize), normalize_assumed=normalize is None)


def _normalize(folder: Path) -> bool | None:
    """Whether audio is normalized, from the file in which transformers looks first; None where no file says it."""
    for name, key in (("processor_config.json", "feature_extractor"), ("preprocessor_config.json", None)):
        if (folder / name).exists():
            content = _json(folder / name)
            extractor = content if key is None else content.get(key)
            if isinstance(extractor, dict):
                return bool(extractor.get("do_normalize", True))
    return None


def _settings(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Hugging Face's settings under fairseq's names."""
    for name, expected in (
        ("feat_extract_activation", "gelu"),
        ("layer_norm_eps", 1e-5),
        ("feat_proj_layer_norm", True),
        ("add_adapter", False),
        ("conv_pos_batch_norm", False),
        ("adapter_attn_dim", None),
    ):
        if config.get(name, expected) != expected:
            raise InputError(f"{name} is {shown(config[name])}; only {expected!r} can be converted", path)
    try:
        layers = list(zip(config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True))
        heads, pre_norm = config["num_attention_heads"], config.get("do_stable_layer_norm", False)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"is not the config of a HuBERT or wav2vec 2.0 model: {error}", path) from None
    return {
        "layer_norm_first": pre_norm,
        "encoder_attention_heads": heads,
        "conv_feature_layers": layers,
        "activation_fn": config.get("hidden_act", "gelu"),
        "dropout": config.get("hidden_dropout", 0.1),
        "attention_dropout": config.get("attention_dropout", 0.1),
        "activation_dropout": config.get("activation_dropout", 0.1),
        "encoder_layerdrop": config.get("layerdrop", 0.1),
        "dropout_input": config.get("feat_proj_dropout", 0.0),
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file; expected a Hugging Face folder", path) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"is not JSON: {error}", path) from None
    if not isinstance(content, dict):
        raise InputError(f"expected a JSON object, found {type(content).__name__}", path)
    return content


def _folder_weights(folder: Path) -> dict[str, Tensor]:
    for name in WEIGHTS_FILES:
        if (folder / name).exists():
            return _weights(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            names = _json(index).get("weight_map")
            shards = sorted(set(names.values())) if isinstance(names, dict) else []
            if not shards or not all(isinstance(s, str) and Path(s).name == s for s in shards):
                raise InputError("weight_map does not name files of its folder", index)
            return {key: value for shard in shards for key, value in _weights(folder / shard).items()}
    raise InputError(f"holds neither {' nor '.join(WEIGHTS_FILES)}", folder)


def _weights(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        content = read_torch_file(path)
        with naming(path):
            return named_tensors(content)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"is not a safetensors file that can be read: {error}", path) from None
    with naming(path):
        return named_tensors(weights)

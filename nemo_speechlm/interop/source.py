"""What somebody else's checkpoint is, recognized by what is in it."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.dictionaries import symbols_of
from nemo_speechlm.interop.encoder_names import fairseq_name
from nemo_speechlm.interop.shown import shortened, shown
from nemo_speechlm.interop.torch_file import read_torch_file


class Kind(Enum):
    """The checkpoints that can be told apart."""

    PRETRAINED = "SpeechLM, pretrained"
    CLEANED = "SpeechLM, pretrained, without its output layers"
    CTC = "SpeechLM, fine-tuned with CTC"
    TRANSLATION = "SpeechLM, fine-tuned with a decoder"
    TEXT_TO_UNIT = "text-to-unit model"
    HUBERT = "HuBERT"
    WAV2VEC2 = "wav2vec 2.0"

    @property
    def is_speechlm(self) -> bool:
        """Whether it has a shared transformer."""
        return self in (Kind.PRETRAINED, Kind.CLEANED, Kind.CTC, Kind.TRANSLATION)


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was read.

    Attributes:
        path: the file or folder.
        kind: what it is.
        weights: all of its parameters, under fairseq's names.
        prefix: what stands in front of the encoder's names.
        settings: the model's, in fairseq's words.
        fine_tuning: those of fine-tuning, where it was fine-tuned.
        normalize: whether it wants audio of zero mean and unit variance.
        label_rate: labels per second, where it says so.
        dictionaries: symbols by the name that fairseq's task gives them.
        huggingface: whether it came from a Hugging Face folder.
    """

    path: Path
    kind: Kind
    weights: Mapping[str, Tensor]
    prefix: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    fine_tuning: Mapping[str, Any] = field(default_factory=dict)
    normalize: bool = False
    label_rate: float | None = None
    dictionaries: Mapping[str, list[str]] = field(default_factory=dict)
    huggingface: bool = False

    def encoder_weights(self) -> dict[str, Tensor]:
        """Parameters behind the prefix."""
        return {k.removeprefix(self.prefix): v for k, v in self.weights.items() if k.startswith(self.prefix)}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What goes wrong inside is the file's fault: an error that names it.

    A hostile file can hold anything anywhere: a list for a number, a table for a vector. What is checked has a message
    of its own; for the rest it is enough that there is one.
    """
    try:
        yield
    except InputError as error:
        raise error if error.path else InputError(error.reason, path) from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"is damaged, or of a form that is not known here ({type(error).__name__}: {shortened(str(error))})", path
        ) from error


def read_source(path: str | Path) -> Source:
    """Read a fairseq ``.pt`` file or a Hugging Face folder.

    Raises:
        InputError: if it cannot be read, is not recognized, or could run code.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        with naming(path):
            return _read_folder(path)
    if path.suffix == ".nemo":
        raise InputError("is a .nemo file already; expected a fairseq .pt file or a Hugging Face folder", path)
    if path.suffix == ".safetensors" or path.name in _WEIGHTS:
        raise InputError(f"give the folder that it is in ({path.parent}): its config.json is needed too", path)
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise InputError(f"holds a {type(content).__name__}, expected a checkpoint", path)
    with naming(path):
        return _from_fairseq(content, path)


def _from_fairseq(content: dict[str, Any], path: Path) -> Source:
    weights = _tensors(content.get("model", content))
    kind, prefix = _recognize(weights)
    cfg = content.get("cfg") if isinstance(content.get("cfg"), dict) else None
    args = content.get("args") if isinstance(content.get("args"), dict) else {}
    model, task = _part(cfg, "model", args), _part(cfg, "task", args)
    fine_tuning: dict[str, Any] = {}
    if prefix:
        fine_tuning, inner = model, model.get("w2v_args")
        model = _part(inner, "model", inner) if isinstance(inner, dict) else {}
        label_rate = None
    else:
        label_rate = model.get("label_rate") or task.get("label_rate")
    if kind in (Kind.HUBERT, Kind.WAV2VEC2) and _says(model, "hubert"):
        kind = Kind.HUBERT
    state = _part(content, "task_state", {})
    dictionaries = {name: symbols for name, value in state.items() if (symbols := symbols_of(value))}
    normalize = task.get("normalize", fine_tuning.get("normalize", False))
    return Source(path, kind, weights, prefix, model, fine_tuning, bool(normalize), _rate(label_rate), dictionaries)


def _part(cfg: Any, name: str, default: Any) -> dict[str, Any]:
    part = cfg.get(name) if isinstance(cfg, dict) else None
    if isinstance(part, dict):
        return part
    return default if isinstance(default, dict) else {}


def _says(model: Mapping[str, Any], word: str) -> bool:
    name = model.get("_name") or model.get("arch")
    return isinstance(name, str) and word in name


def _rate(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


_MOST_COPIES = 8
"""How often the values of a checkpoint may occur on average; weights that are tied occur twice."""


def _tensors(model: Any) -> dict[str, Tensor]:
    found = {key: v for key, v in model.items() if isinstance(v, Tensor)} if isinstance(model, dict) else {}
    if not found:
        raise InputError("holds no parameters; expected a checkpoint of fairseq's with a 'model'")
    if not all(isinstance(key, str) for key in found):
        raise InputError("holds tensors without names")
    _check_sizes(found)
    return found


def _check_sizes(weights: Mapping[str, Tensor]) -> None:
    """Each parameter is copied, and the model gets the sizes that they show: neither may be much more."""
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in weights.values()}
    values = sum(stored.values())
    if sum(value.nbytes for value in weights.values()) > _MOST_COPIES * values:
        raise InputError(f"its parameters hold the same values more than {_MOST_COPIES} times")
    for name, value in weights.items():
        if not value.numel() and math.prod(filter(None, value.shape)) > max(values, 1):
            raise InputError(f"its parameter {shortened(name)} is of shape {tuple(value.shape)}")


def _recognize(weights: Mapping[str, Tensor]) -> tuple[Kind, str]:
    def has(start: str) -> bool:
        return any(key.startswith(start) for key in weights)

    if has("encoder.var_adaptor."):
        return Kind.TEXT_TO_UNIT, ""
    for prefix, kind in (("w2v_encoder.w2v_model.", Kind.CTC), ("encoder.w2v_model.", Kind.TRANSLATION)):
        if has(prefix):
            if has(f"{prefix}unit_encoder.layers."):
                return kind, prefix
            return (Kind.HUBERT if has(f"{prefix}label_embs_concat") else Kind.WAV2VEC2), prefix
    if has("unit_encoder.layers.") and has("feature_extractor.conv_layers."):
        full = has("label_embs_list.") and has("unit_embed_tokens.")
        return (Kind.PRETRAINED if full else Kind.CLEANED), ""
    if has("feature_extractor.conv_layers.") and has("encoder.layers."):
        return (Kind.HUBERT if has("label_embs_concat") else Kind.WAV2VEC2), ""
    known = ", ".join(kind.value for kind in Kind)
    found = shortened(", ".join(list(weights)[:4]))
    raise InputError(f"is not recognized: it holds {found} and {max(len(weights) - 4, 0)} more; known are {known}")


# --- Hugging Face ---------------------------------------------------------------------------------------------------

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_MODEL_TYPES = {"hubert": Kind.HUBERT, "wav2vec2": Kind.WAV2VEC2}


def _read_folder(folder: Path) -> Source:
    config = _json(folder / "config.json")
    kind = _MODEL_TYPES.get(str(config.get("model_type")))
    if kind is None:
        known = " or ".join(map(repr, _MODEL_TYPES))
        raise InputError(f"model_type is {shown(config.get('model_type'))}, expected {known}", folder / "config.json")
    weights = {fairseq_name(key): value for key, value in _folder_weights(folder).items()}
    preprocessor = folder / "preprocessor_config.json"
    normalize = _json(preprocessor).get("do_normalize", True) if preprocessor.exists() else False
    settings = _settings(config, folder / "config.json")
    return Source(folder, kind, weights, "", settings, {}, bool(normalize), huggingface=True)


def _settings(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Fairseq's words for Hugging Face's."""
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
    for name in _WEIGHTS:
        if (folder / name).exists():
            return _weights(folder / name)
        index = folder / f"{name}.index.json"
        if index.exists():
            names = _json(index).get("weight_map")
            shards = sorted(set(names.values())) if isinstance(names, dict) else []
            if not shards or not all(isinstance(s, str) and Path(s).name == s for s in shards):
                raise InputError("weight_map does not name files of its folder", index)
            return {key: value for shard in shards for key, value in _weights(folder / shard).items()}
    raise InputError(f"holds neither {' nor '.join(_WEIGHTS)}", folder)


def _weights(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        content = read_torch_file(path)
        with naming(path):
            return _tensors(content)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"is not a safetensors file that can be read: {error}", path) from None
    with naming(path):
        return _tensors(weights)

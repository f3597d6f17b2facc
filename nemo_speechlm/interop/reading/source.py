"""Recognize a foreign checkpoint by its content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading.dictionaries import symbols_of
from nemo_speechlm.interop.reading.huggingface import read_folder
from nemo_speechlm.interop.reading.kinds import WEIGHTS_FILES, Kind, Source, named_tensors, naming
from nemo_speechlm.interop.reading.shown import shortened
from nemo_speechlm.interop.reading.torch_file import read_torch_file


def read_source(path: str | Path) -> Source:
    """Read a fairseq ``.pt`` file or a Hugging Face folder.

    Raises:
        InputError: if it cannot be read, is not recognized, or could run code.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        with naming(path):
            return read_folder(path)
    if path.suffix == ".nemo":
        raise InputError("is a .nemo file already; expected a fairseq .pt file or a Hugging Face folder", path)
    if path.suffix == ".safetensors" or path.name in WEIGHTS_FILES:
        raise InputError(f"give the folder that it is in ({path.parent}): its config.json is needed too", path)
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise InputError(f"holds a {type(content).__name__}, expected a checkpoint", path)
    with naming(path):
        return _from_fairseq(content, path)


def _from_fairseq(content: dict[str, Any], path: Path) -> Source:
    weights = named_tensors(content.get("model", content))
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

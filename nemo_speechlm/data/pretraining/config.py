"""From a short config of streams to what NeMo's Lhotse data loading takes."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, NamedTuple

from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from yaml import YAMLError

from nemo_speechlm.errors import InputError
from nemo_speechlm.units.inventory import UnitInventory

PARTS = ("speech", "text")

_TOP_KEYS = {*PARTS, "num_workers", "pin_memory", "prefetch_factor", "seed"}
_NEMO_KEYS = {field.name for field in fields(LhotseDataLoadingConfig)}
_READER_KEYS = {
    "speech": ("min_duration", "max_duration", "truncate_duration", "truncate_offset_type"),
    "text": ("min_tokens", "max_tokens", "unknown_characters"),
}
_OWN_TYPES = ("speech_units", "text_units")
_SOURCES = ("input_cfg", "tarred_audio_filepaths", "cuts_path", "shar_path")
# They change how long the audio is without changing its units.
_UNFIT = ("perturb_speed", "concatenate_samples", "pad_min_duration")
_BUCKET_BUFFER = 2000
_BINS_SAMPLE = 2000


class Shared(NamedTuple):
    inventory: UnitInventory
    text_inventory: UnitInventory
    labels: Sequence[str]
    text_frame_rate: float
    sample_rate: int
    order: dict[str, Any]
    longest: float | None
    max_frames: int | None


def split_config(config: DictConfig | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings of the whole, and the parts there are."""
    if not isinstance(config, DictConfig):
        config = OmegaConf.create(dict(config))
    try:
        content: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore
    except MissingMandatoryValue as error:
        raise InputError(f"data config: {error.full_key} has no value; give it on the command line") from error
    _known(content, _TOP_KEYS, "")
    parts = {name: content[name] for name in PARTS if content.get(name)}
    if not parts:
        raise InputError("data config: neither a speech nor a text part")
    settings = {"num_workers": 0, "pin_memory": False, "prefetch_factor": None, "seed": 0}
    settings.update({key: value for key, value in content.items() if key not in PARTS and value is not None})
    if not isinstance(settings["seed"], int) or settings["seed"] < 0:
        raise InputError(f"data config: seed is {settings['seed']!r}, expected a whole number of at least 0")
    return settings, parts


def _known(config: Mapping[str, Any], keys: set[str], where: str) -> None:
    for key in config:
        if key not in keys:
            near = get_close_matches(key, keys, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"data config: unknown key {where}{key}{hint}")


def uses_own_types(part: Mapping[str, Any]) -> bool:
    """Whether all that the part reads is read by our readers."""
    if part.get("input_cfg") is not None:
        return all(uses_own_types(item) for item in _items(part["input_cfg"]))
    if "type" in part:
        return part["type"] in _OWN_TYPES
    return all(part.get(key) is None for key in _SOURCES)


def _items(input_cfg: Any) -> list[Any]:
    """The items of an ``input_cfg``, which may be the path of a YAML file."""
    if isinstance(input_cfg, str):
        try:
            input_cfg = OmegaConf.to_container(OmegaConf.load(input_cfg), resolve=True)
        except (OSError, YAMLError) as error:
            raise InputError(f"input_cfg cannot be read: {error}", input_cfg) from error
    if not isinstance(input_cfg, list) or not all(isinstance(item, dict) and "type" in item for item in input_cfg):
        raise InputError("data config: input_cfg is not a list of items with a type")
    return input_cfg


def nemo_part(name: str, part: dict[str, Any], shared: Shared, training: bool) -> dict[str, Any]:
    """NeMo's config of a part: our reader as its ``input_cfg``, the rest as the user gave it."""
    _known(part, _NEMO_KEYS | set(_READER_KEYS[name]), f"{name}.")
    for key in _UNFIT:
        if part.get(key):
            raise InputError(f"data config: {name}.{key} cannot be used, units would no longer fit their audio")
    sizes = ("batch_size", "batch_duration" if name == "speech" else "batch_tokens", "bucket_batch_size")
    if not any(part.get(key) for key in sizes):
        raise InputError(f"data config: no batch size in {name}; give one of {', '.join(sizes)}")
    part = {key: value for key, value in part.items() if value is not None}
    options = {key: part[key] for key in _READER_KEYS[name] if key in part}
    item: dict[str, Any] = {
        "type": f"{name}_units",
        "inventory": (shared.inventory if name == "speech" else shared.text_inventory).to_dict(),
        **shared.order,
        **options,
    }
    if name == "speech":
        item |= {"sample_rate": shared.sample_rate, "longest": shared.longest}
    else:
        item |= {
            "labels": list(shared.labels),
            "frame_rate": shared.text_frame_rate,
            "max_frames": shared.max_frames,
        }
    own_types = uses_own_types(part)
    if own_types and "input_cfg" not in part:
        if not part.get("manifest_filepath"):
            raise InputError(f"data config: no {name}.manifest_filepath")
        part["input_cfg"] = [{**item, "manifest_filepath": part.pop("manifest_filepath")}]
    elif "input_cfg" in part:
        part["input_cfg"] = _fill(part["input_cfg"], item)
    if own_types:
        part = {key: value for key, value in part.items() if key not in _READER_KEYS[name]}
    elif name == "speech" and shared.longest is not None:  # types of NeMo's own do not know what the model can encode
        part["max_duration"] = min(part.get("max_duration", shared.longest), shared.longest)
    defaults: dict[str, Any] = {
        "sample_rate": shared.sample_rate,
        "force_iterable_dataset": training,
        "force_map_dataset": not training,
        # In a thread an error would be lost, and batches would depend on how fast it is.
        "concurrent_bucketing": False,
        "pretokenize": False,
    }
    if name == "text":
        defaults["use_multimodal_sampling"] = True
    if not training:
        part["use_bucketing"] = False
    elif own_types:
        # Ours come in a random order, so that a small sample shows how long they are, and a small buffer will do.
        defaults |= {
            "bucket_buffer_size": _BUCKET_BUFFER,
            "shuffle_buffer_size": None,
            "num_cuts_for_bins_estimate": _BINS_SAMPLE,
        }
    return {**defaults, **part}


def _fill(items: Any, values: dict[str, Any]) -> list[Any]:
    """Give ``values`` to the items of our type in a user's ``input_cfg``, groups included; their own values stay."""
    filled = []
    for item in _items(items):
        if item.get("type") == values["type"]:
            item = {**values, **item}
        elif "input_cfg" in item:
            item = {**item, "input_cfg": _fill(item["input_cfg"], values)}
        filled.append(item)
    return filled

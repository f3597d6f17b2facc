"""From a short config of streams to what NeMo's Lhotse data loading takes."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from yaml import YAMLError

from nemo_speechlm.checks import check_number, check_whole
from nemo_speechlm.data.bad_examples import BadRule
from nemo_speechlm.data.pretraining.audio_reader import PERTURBATIONS
from nemo_speechlm.data.pretraining.augmentation import check_augmentation
from nemo_speechlm.data.pretraining.streams import READERS, Stream
from nemo_speechlm.errors import InputError
from nemo_speechlm.storage import SCHEMES, is_url, scheme_of

_NEMO_KEYS = {field.name for field in fields(LhotseDataLoadingConfig)}
_OWN_TYPES = tuple(reader.type for reader in READERS)
_SOURCES = ("input_cfg", "cuts_path", "shar_path")
_BUCKET_BUFFER = 2000
_BINS_SAMPLE = 2000


class Settings(NamedTuple):
    """What a config says of all its streams.

    Attributes:
        seed: of the order, of crops and of drawn durations.
        num_workers: processes that make batches.
        pin_memory: as PyTorch's data loader has it; None: where there is a GPU, so that copying waits for nothing.
        prefetch_factor: batches that each worker makes ahead.
        timeout: seconds after which a worker that reads the same example still is taken to hang; 0: never. Without
            workers nobody is there to notice.
        bad: what becomes of bad examples.
    """

    seed: int = 0
    num_workers: int = 0
    pin_memory: bool | None = None
    prefetch_factor: int | None = None
    timeout: float = 0
    bad: BadRule = BadRule()

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Settings":
        """Those of a config that has them beside other keys; null stands for what is not said.

        Raises:
            InputError: naming a key with a wrong value.
        """
        known = {key: config[key] for key in SETTINGS if key in cls._fields and config.get(key) is not None}
        settings = cls(**known, bad=BadRule.of(config))
        if not isinstance(settings.seed, int) or settings.seed < 0:
            raise InputError(f"data config: seed is {settings.seed!r}, expected a whole number of at least 0")
        check_number("data config: timeout", settings.timeout, 0)
        return settings

    def of_loader(self) -> dict[str, Any]:
        """Arguments of PyTorch's data loader."""
        prefetch, timeout = (self.prefetch_factor, self.timeout) if self.num_workers else (None, 0)
        return {
            "num_workers": self.num_workers,
            "pin_memory": torch.cuda.is_available() if self.pin_memory is None else self.pin_memory,
            "prefetch_factor": prefetch,
            "timeout": timeout,
        }


SETTINGS = frozenset({*Settings._fields, *BadRule._fields} - {"bad"})
"""The keys that a config says them with."""


class Part(NamedTuple):
    """A stream that a config gives data for.

    Attributes:
        stream: which one.
        config: keys of NeMo's loader, with the data as an ``input_cfg``.
        shared: our readers read it all, so that its order can be begun anywhere.
        exact: it is one reader of ours, which reads each line once a pass.
    """

    stream: Stream
    config: dict[str, Any]
    shared: bool
    exact: bool


def read_config(
    config: DictConfig | Mapping[str, Any], streams: Sequence[Stream], training: bool
) -> tuple[Settings, list[Part]]:
    """Check a data config and complete it.

    Args:
        config: a part for each stream, and the fields of :class:`Settings`.
        streams: those of the model; the config may leave some out.
        training: endless, in random order; otherwise one pass in the order of the files.

    Raises:
        InputError: naming a key that is unknown, has no value or a wrong one.
    """
    if not isinstance(config, DictConfig):
        config = OmegaConf.create(dict(config))
    try:
        content: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore
    except MissingMandatoryValue as error:
        raise InputError(f"data config: {error.full_key} has no value; give it on the command line") from error
    names = [stream.name for stream in streams]
    _check_keys(content, {*names, *SETTINGS}, "")
    present = [stream for stream in streams if content.get(stream.name)]
    if not present:
        raise InputError(f"data config: {_neither(names)}")
    settings = Settings.of(content)
    return settings, [read_part(stream, content[stream.name], settings, training) for stream in present]


def _neither(names: list[str]) -> str:
    if len(names) == 1:
        return f"no {names[0]} part"
    return f"neither a {' nor a '.join(names)} part"


def _check_keys(config: Mapping[str, Any], keys: set[str], where: str) -> None:
    for key in config:
        if key not in keys:
            near = get_close_matches(key, keys, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"data config: unknown key {where}{key}{hint}")


def read_part(stream: Stream, part: dict[str, Any], settings: Settings, training: bool) -> Part:
    """NeMo's config of a stream: our reader as its ``input_cfg``, the rest as the user gave it.

    Args:
        stream: which one.
        part: keys of NeMo's loader and of the stream's reader.
        settings: of all streams.
        training: as for :func:`read_config`.

    Raises:
        InputError: naming a key that is unknown, missing or does not fit the stream.
    """
    name = stream.name
    _check_keys(part, _NEMO_KEYS | set(stream.reader.options), f"{name}.")
    for key in stream.unfit:
        if part.get(key):
            raise InputError(f"data config: {name}.{key} cannot be used, {_unfit(stream)}")
    sizes = ("batch_size", stream.size_key, "bucket_batch_size")
    if not any(part.get(key) for key in sizes):
        raise InputError(f"data config: no batch size in {name}; give one of {', '.join(sizes)}")
    part = {key: value for key, value in part.items() if value is not None}
    check_augmentation(part, name, stream.has_audio)
    options = {key: part[key] for key in stream.reader.options if key in part}
    seed, shuffle = part.get("seed", settings.seed), part.get("shuffle", training)
    item = {"type": stream.reader.type, "seed": seed, "shuffle": shuffle, **stream.facts(), **options}
    if settings.bad.skips:
        item["skip_bad"] = True
    if not training:
        item["force_finite"] = True
    own = _uses_own_types(part) and not any(part.get(key) for key in stream.nemos)
    if not own and not stream.takes_nemos:
        raise InputError(
            f"data config: {name} has data that NeMo reads, which speech alone can be; expected "
            f"{name}.manifest_filepath, or input_cfg with items of the type {stream.reader.type}"
        )
    for key in PERTURBATIONS:
        if part.get(key) and not own:
            raise InputError(
                f"data config: {name}.{key} cannot be used, NeMo reads these data; give {name}.{key}=null"
            )
    if own and stream.has_audio and part.get("perturb_speed"):
        raise InputError(
            "data config: perturb_speed is for data that NeMo reads; the option speeds does the same for these"
        )
    if "input_cfg" in part:
        part["input_cfg"] = _fill(part["input_cfg"], item)
    elif own:
        if not part.get("manifest_filepath"):
            raise InputError(f"data config: no {name}.manifest_filepath")
        part["input_cfg"] = [{**item, "manifest_filepath": part.pop("manifest_filepath")}]
        part.pop("tarred_audio_filepaths", None)
    if own:
        check_whole(f"data config: {name}.seed", seed)
        part = {key: value for key, value in part.items() if key not in (*stream.reader.options, "shuffle")}
    elif stream.has_audio and item.get("longest"):  # NeMo's types do not know what the model can encode
        part["max_duration"] = min(part.get("max_duration", item["longest"]), item["longest"])
    defaults = _defaults(stream, item, training, own)
    if not training:
        part["use_bucketing"] = False
    exact = own and len(part["input_cfg"]) == 1 and part["input_cfg"][0]["type"] in _OWN_TYPES
    if training and own and not exact and _is_unshuffled(part["input_cfg"]):
        raise InputError(
            f"data config: {name}.shuffle=false cannot be used where data are mixed: a pass reads the begin of each, "
            "which would be the same lines in all passes"
        )
    return Part(stream, {**defaults, **part}, own, exact)


def _unfit(stream: Stream) -> str:
    return "units would no longer fit their audio" if stream.name == "speech" else "texts would no longer fit"


def _defaults(stream: Stream, item: Mapping[str, Any], training: bool, own: bool) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "sample_rate": item.get("sample_rate", 16000),
        "seed": item["seed"],
        "shard_seed": item["seed"],
        "shuffle": training and not own,  # ours shuffle better than a buffer would
        "force_iterable_dataset": training,
        "force_map_dataset": not training,
        "force_finite": not training,
        # In a thread an error would be lost, and batches would depend on how fast it is.
        "concurrent_bucketing": False,
        "pretokenize": False,
    }
    if not stream.has_audio:
        defaults["use_multimodal_sampling"] = True
    if training and own:
        # Ours come in a random order, so that a small sample shows how long they are, and a small buffer will do.
        defaults |= {
            "bucket_buffer_size": _BUCKET_BUFFER,
            "shuffle_buffer_size": None,
            "num_cuts_for_bins_estimate": _BINS_SAMPLE,
        }
    return defaults


def _uses_own_types(part: Mapping[str, Any]) -> bool:
    """Whether all that the part reads is read by our readers."""
    if part.get("input_cfg") is not None:
        return all(_uses_own_types(item) for item in _items(part["input_cfg"]))
    if "type" in part:
        return part["type"] in _OWN_TYPES
    if any(part.get(key) is not None for key in _SOURCES):
        return False
    # Tar files behind a pipe or at addresses that we do not read are NeMo's to read, and so are its lists of lists.
    paths = [*_flat(part.get("manifest_filepath")), *_flat(part.get("tarred_audio_filepaths"))]
    if not all(isinstance(path, str) for path in paths):
        return False
    return part.get("tarred_audio_filepaths") is None or not any(
        path.startswith("pipe:") or (is_url(path) and scheme_of(path) not in SCHEMES) for path in paths
    )


def _flat(paths: Any) -> list[Any]:
    return [] if paths is None else [paths] if isinstance(paths, str) else list(paths)


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


def _is_unshuffled(items: Any) -> bool:
    return any(
        _is_unshuffled(item["input_cfg"]) if "input_cfg" in item else not item.get("shuffle", True)
        for item in _items(items)
    )


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

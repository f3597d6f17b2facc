"""Data loaders for pretraining, made of a short config by NeMo's Lhotse data loading.

A config has a ``speech`` part, a ``text`` part, or both::

    train_ds:
      speech: {manifest_filepath: speech.json, batch_duration: 87.5, max_duration: 30, truncate_duration: 15.6}
      text: {manifest_filepath: text.json, batch_tokens: 4375, max_tokens: 2800, use_bucketing: true}
      num_workers: 2
      seed: 0

Each part may have any key of NeMo's ``LhotseDataLoadingConfig``. In training, each step has a batch of each part
(NeMo's ``multi_config`` with ``sampler_fusion: zip``).
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import torch
from lhotse.dataset.dataloading import make_worker_init_fn
from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig, get_lhotse_dataloader_from_config
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from torch.utils.data import DataLoader, Dataset
from yaml import YAMLError

from nemo_speechlm.data.guarded import Guarded, GuardedStream, raise_errors
from nemo_speechlm.data.pretrain_dataset import SpeechLMPretrainDataset
from nemo_speechlm.data.unit_reader import UnitReader
from nemo_speechlm.errors import InputError
from nemo_speechlm.tokenizers.units import UnitInventory

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


class PretrainLoader(DataLoader):
    """A data loader that hands out a worker's :class:`InputError` as it is, and whose order goes on after a resume.

    In its ``state_dict``, which Lightning keeps in checkpoints, is the number of batches that it delivered; they seed
    the order of what follows a resume, so no step sees again what the first steps saw.
    """

    def __init__(self, dataset: Dataset, **options: Any):
        super().__init__(dataset, batch_size=None, **options)
        self.delivered = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in raise_errors(super().__iter__()):
            self.delivered += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """What Lightning saves."""
        return {"delivered": self.delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on in a new order, seeded by how far the saved run had come; takes effect before the first batch."""
        self.delivered = state["delivered"]
        for reader in _readers(self.dataset):
            reader.start = self.delivered


def build_pretrain_dataloader(
    config: DictConfig | Mapping[str, Any],
    inventory: UnitInventory,
    labels: Sequence[str],
    text_frame_rate: float,
    global_rank: int = 0,
    world_size: int = 1,
    sample_rate: int = 16000,
    text_inventory: UnitInventory | None = None,
    longest: float | None = None,
    max_frames: int | None = None,
) -> PretrainLoader:
    """An endless loader of training batches; it has no length, so the trainer needs ``max_steps``.

    Args:
        config: see the module; ``use_bucketing`` with ``num_buckets`` works for both parts.
        inventory: the units.
        labels: the characters that text targets are positions of.
        text_frame_rate: frames per second that text is expanded to.
        global_rank: of this process among ``world_size``; each reads lines of its own.
        world_size: number of processes.
        sample_rate: of the audio.
        text_inventory: the units of text, where it has others than speech.
        longest: seconds of speech that the model can encode, None for any; longer utterances are left out.
        max_frames: frames of text that the model can encode, None for any; no sentence gets more.

    Raises:
        InputError: on what is wrong in the config, or in the lines of the manifests that are looked at first.
    """
    settings, parts = _split(config)
    workers, seed = settings["num_workers"], settings["seed"]
    order = {"seed": seed, "rank": global_rank, "world_size": world_size, "shuffle": True}
    shared = _Shared(
        inventory, text_inventory or inventory, labels, text_frame_rate, sample_rate, order, longest, max_frames
    )
    own_types = {name: _uses_own_types(part) for name, part in parts.items()}
    nemo_config = {
        "multi_config": True,
        "sampler_fusion": "zip",
        "seed": seed,
        # NeMo's tarred readers shuffle by this seed alone, so that it must differ between workers and ranks.
        "shard_seed": seed + 1_000_003 * global_rank if all(own_types.values()) or not workers else "randomized",
        "shuffle": not all(own_types.values()),  # ours shuffle better than a buffer would
        "num_workers": workers,
        **{name: _nemo_part(name, part, shared, training=True) for name, part in parts.items()},
    }
    loader = _with_nemo(nemo_config, shared, global_rank, world_size)
    return PretrainLoader(
        GuardedStream(loader.dataset),
        num_workers=workers,
        pin_memory=settings["pin_memory"],
        prefetch_factor=settings["prefetch_factor"] if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=make_worker_init_fn(rank=global_rank, world_size=world_size, seed=seed),
    )


def build_validation_dataloaders(
    config: DictConfig | Mapping[str, Any],
    inventory: UnitInventory,
    labels: Sequence[str],
    text_frame_rate: float,
    global_rank: int = 0,
    world_size: int = 1,
    sample_rate: int = 16000,
    text_inventory: UnitInventory | None = None,
    longest: float | None = None,
    max_frames: int | None = None,
) -> list[PretrainLoader]:
    """One finite loader for each part of the config, speech before text; arguments as in training.

    Lines come in their files' order. Durations of text are drawn the same in every run. All ranks get the same number
    of batches; the trainer must have ``use_distributed_sampler: false``, as always with NeMo's Lhotse data loading.
    """
    settings, parts = _split(config)
    order = {"seed": settings["seed"], "rank": 0, "world_size": 1, "shuffle": False, "force_finite": True}
    shared = _Shared(
        inventory, text_inventory or inventory, labels, text_frame_rate, sample_rate, order, longest, max_frames
    )
    loaders = []
    for name, part in parts.items():
        nemo_config = {
            **_nemo_part(name, part, shared, training=False),
            "seed": settings["seed"],
            "shard_seed": settings["seed"],
            "shuffle": False,
            "force_finite": True,
            "num_workers": settings["num_workers"],
        }
        loader = _with_nemo(nemo_config, shared, global_rank, world_size)
        loaders.append(
            PretrainLoader(
                Guarded(loader.dataset),
                sampler=loader.sampler,
                num_workers=settings["num_workers"],
                pin_memory=settings["pin_memory"],
                prefetch_factor=settings["prefetch_factor"] if settings["num_workers"] else None,
            )
        )
    return loaders


class _NoTokenizer:
    """NeMo counts the units of text as tokens only if it has a tokenizer, which it then does not call."""


class _Shared(NamedTuple):
    inventory: UnitInventory
    text_inventory: UnitInventory
    labels: Sequence[str]
    text_frame_rate: float
    sample_rate: int
    order: dict[str, Any]
    longest: float | None
    max_frames: int | None


def _split(config: DictConfig | Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
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


def _uses_own_types(part: Mapping[str, Any]) -> bool:
    """Whether all that the part reads is read by our readers."""
    if part.get("input_cfg") is not None:
        return all(_uses_own_types(item) for item in _items(part["input_cfg"]))
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


def _nemo_part(name: str, part: dict[str, Any], shared: _Shared, training: bool) -> dict[str, Any]:
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
    own_types = _uses_own_types(part)
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


def _with_nemo(config: dict[str, Any], shared: _Shared, global_rank: int, world_size: int) -> DataLoader:
    dataset = SpeechLMPretrainDataset(shared.inventory, shared.sample_rate)
    with _kept_random_state():  # NeMo seeds all of it, and thereby a model that is made afterwards
        return get_lhotse_dataloader_from_config(
            OmegaConf.create(config), global_rank, world_size, dataset, tokenizer=_NoTokenizer()
        )


@contextmanager
def _kept_random_state() -> Iterator[None]:
    # numpy's old global state is what NeMo seeds
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def _readers(root: Any) -> list[UnitReader]:
    """Our readers inside a dataset, its sampler and Lhotse's wrappers around cuts."""
    found, seen, stack = [], set(), [root]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, UnitReader):
            found.append(item)
        elif isinstance(item, list | tuple):
            stack.extend(item)
        elif type(item).__module__.split(".")[0] in ("lhotse", "nemo_speechlm"):
            stack.extend(vars(item).values() if hasattr(item, "__dict__") else ())
    return found

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
from typing import Any

import numpy as np
import torch
from lhotse.dataset.dataloading import make_worker_init_fn
from nemo.collections.common.data.lhotse.dataloader import get_lhotse_dataloader_from_config
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset

from nemo_speechlm.data.pretraining.config import Shared, nemo_part, split_config, uses_own_types
from nemo_speechlm.data.pretraining.dataset import SpeechLMPretrainDataset
from nemo_speechlm.data.pretraining.order import UnitReader
from nemo_speechlm.data.worker_errors import ErrorReturningDataset, ErrorReturningStream, raise_errors
from nemo_speechlm.units.inventory import UnitInventory


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
    settings, parts = split_config(config)
    workers, seed = settings["num_workers"], settings["seed"]
    order = {"seed": seed, "rank": global_rank, "world_size": world_size, "shuffle": True}
    shared = Shared(
        inventory, text_inventory or inventory, labels, text_frame_rate, sample_rate, order, longest, max_frames
    )
    own_types = {name: uses_own_types(part) for name, part in parts.items()}
    nemo_config = {
        "multi_config": True,
        "sampler_fusion": "zip",
        "seed": seed,
        # NeMo's tarred readers shuffle by this seed alone, so that it must differ between workers and ranks.
        "shard_seed": seed + 1_000_003 * global_rank if all(own_types.values()) or not workers else "randomized",
        "shuffle": not all(own_types.values()),  # ours shuffle better than a buffer would
        "num_workers": workers,
        **{name: nemo_part(name, part, shared, training=True) for name, part in parts.items()},
    }
    loader = _with_nemo(nemo_config, shared, global_rank, world_size)
    return PretrainLoader(
        ErrorReturningStream(loader.dataset),
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
    settings, parts = split_config(config)
    order = {"seed": settings["seed"], "rank": 0, "world_size": 1, "shuffle": False, "force_finite": True}
    shared = Shared(
        inventory, text_inventory or inventory, labels, text_frame_rate, sample_rate, order, longest, max_frames
    )
    loaders = []
    for name, part in parts.items():
        nemo_config = {
            **nemo_part(name, part, shared, training=False),
            "seed": settings["seed"],
            "shard_seed": settings["seed"],
            "shuffle": False,
            "force_finite": True,
            "num_workers": settings["num_workers"],
        }
        loader = _with_nemo(nemo_config, shared, global_rank, world_size)
        loaders.append(
            PretrainLoader(
                ErrorReturningDataset(loader.dataset),
                sampler=loader.sampler,
                num_workers=settings["num_workers"],
                pin_memory=settings["pin_memory"],
                prefetch_factor=settings["prefetch_factor"] if settings["num_workers"] else None,
            )
        )
    return loaders


class _NoTokenizer:
    """NeMo counts the units of text as tokens only if it has a tokenizer, which it then does not call."""


def _with_nemo(config: dict[str, Any], shared: Shared, global_rank: int, world_size: int) -> DataLoader:
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

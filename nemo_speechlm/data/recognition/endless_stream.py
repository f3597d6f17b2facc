"""Endless training data that are read in order, as tar files are: each worker has an order of its own."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lhotse.dataset.dataloading import make_worker_init_fn
from nemo.collections.common.data.lhotse.dataloader import get_lhotse_sampler_from_config
from omegaconf import DictConfig
from torch.utils.data import DataLoader, Dataset, IterableDataset

from nemo_speechlm.data.recognition.transcripts import TranscriptStatistics
from nemo_speechlm.data.worker_errors import ErrorReturningStream, raise_errors


class EndlessStream(IterableDataset):
    """Batches of a NeMo data config whose source has no random access.

    Every worker reads all the data, again and again, as NeMo and Lhotse do it with tar files: what keeps their batches
    apart is the order. It follows from ``seed``, the process, the worker, and the number of batches before ``start``,
    and from nothing else. So a run can be repeated, and a resumed run does not see its first utterances again.

    Args:
        config: all keys of NeMo's ``LhotseDataLoadingConfig``; ``shard_seed`` is replaced.
        dataset: makes a batch of the cuts that a sampler chose.
        seed: of the order.
        rank: of this process.

    Attributes:
        start: batches that the process had before the next iteration.
    """

    def __init__(self, config: DictConfig, dataset: Dataset, seed: int, rank: int):
        self.config, self.dataset, self.seed, self.rank = config.copy(), dataset, seed, rank
        self.start = 0
        sampler = self._sampler(0)  # a wrong config fails here, not in a worker
        if config.use_bucketing:  # found once, for the data may have been read for them
            self.config.bucket_duration_bins = [float(seconds) for seconds in sampler.duration_bins]

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        for cuts in self._sampler(0 if worker is None else worker.id):
            yield self.dataset[cuts]

    def _sampler(self, worker: int) -> Any:
        mixed = np.random.SeedSequence([self.seed, self.rank, worker, self.start]).generate_state(1)[0]
        config = self.config.copy()
        config.shard_seed = int(mixed >> 1)
        return get_lhotse_sampler_from_config(config, global_rank=0, world_size=1)[0]


class EndlessLoader(DataLoader):
    """Hands out the batches of an :class:`EndlessStream`; each iteration goes on where the last one stopped.

    The number of batches that it delivered is in its ``state_dict``, which Lightning keeps in checkpoints.

    Attributes:
        delivered: batches since training began.
        statistics: of each manifest that it reads.
    """

    statistics: Sequence[TranscriptStatistics] = ()

    def __init__(self, stream: EndlessStream, world_size: int, num_workers: int = 0, pin_memory: bool = False):
        super().__init__(
            ErrorReturningStream(stream),
            batch_size=None,
            num_workers=num_workers,
            pin_memory=pin_memory,
            worker_init_fn=make_worker_init_fn(rank=stream.rank, world_size=world_size, seed=stream.seed),
        )
        self.stream = stream
        self.delivered = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.stream.start = self.delivered
        for batch in raise_errors(super().__iter__()):
            self.delivered += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """What Lightning saves."""
        return {"delivered": self.delivered}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on in the order that follows from how far the saved run had come."""
        self.delivered = state["delivered"]

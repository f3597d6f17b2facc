"""Loaders that count bad examples and do not wait for workers that hang."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from nemo_speechlm.data.bad_examples import BadCount, BadExample, Preparation
from nemo_speechlm.data.pretraining.config import Settings
from nemo_speechlm.data.pretraining.manifest_reader import ManifestReader
from nemo_speechlm.data.waiting import Reading, without_hanging
from nemo_speechlm.data.worker_errors import ErrorReturningDataset, raise_errors
from nemo_speechlm.data.worker_signals import leave_signals_to_parent


class GuardedLoader(DataLoader):
    """Counts and lists bad examples, hands out a worker's :class:`InputError` as it is, does not wait for ever.

    Its workers live on when all processes of a job get a signal (:mod:`nemo_speechlm.data.worker_signals`).

    Args:
        dataset: makes batches with ``read``, ``bad`` and ``with_bad``.
        count: of bad examples.
        reading: what its workers read; None for a loader without a ``timeout``.
        options: of PyTorch's loader.
    """

    def __init__(self, dataset: Dataset, count: BadCount, reading: Reading | None = None, **options: Any):
        super().__init__(dataset, batch_size=None, worker_init_fn=leave_signals_to_parent, **options)
        self.count = count
        self.reading = reading

    def made(self) -> Iterator[Any]:
        """What the dataset makes."""
        batches: Iterator[Any] = super().__iter__()
        if self.reading is not None:
            batches = without_hanging(batches, self.reading, self.timeout)
        return raise_errors(batches)


class PassLoader(GuardedLoader):
    """A pass through data, as for validation; each pass counts its bad examples anew.

    Args:
        dataset: see :class:`GuardedLoader`.
        count: see there.
        reading: see there.
        readers: what the sampler reads, in this process.
        rank: of this process, and the number of those whose samplers read the same.
        options: of PyTorch's loader.
    """

    def __init__(
        self,
        dataset: Dataset,
        count: BadCount,
        reading: Reading | None = None,
        readers: Sequence[ManifestReader] = (),
        rank: tuple[int, int] = (0, 1),
        **options: Any,
    ):
        super().__init__(ErrorReturningDataset(dataset), count, reading, **options)
        self.readers = readers
        self.rank = rank

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.count.read, self.count.bad = 0, 0
        for batch in self.made():
            lines = self._bad_lines()
            self.count.add(batch.read + len(lines), [*lines, *batch.bad])
            yield batch.numbered(None)
        rest = self._bad_lines()
        self.count.add(len(rest), rest)

    def _bad_lines(self) -> list[BadExample]:
        """This process's share of the lines left out since the last call."""
        lines = (line for reader in self.readers for line in reader.take_bad())
        return [line for line in lines if line.counted_by(*self.rank)]


def preparation_of(settings: Settings) -> Preparation:
    """What becomes of the examples of a loader."""
    watched = settings.timeout and settings.num_workers
    return Preparation(settings.bad.skips, Reading(settings.num_workers) if watched else None)


def survey(readers: Iterable[ManifestReader], count: BadCount) -> None:
    """List what readers found bad when they were made.

    Raises:
        InputError: if it is too much.
    """
    for reader in readers:
        count.survey(reader.surveyed, list(dict.fromkeys(reader.take_bad())))  # a line may be looked at twice

"""Bad input found in a data-loading worker, told without the worker's traceback."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from nemo_speechlm.errors import InputError


class ErrorReturningDataset(Dataset):
    """Returns an :class:`InputError` instead of raising it: a worker would wrap it in its traceback."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except InputError as error:
            return error


class ErrorReturningStream(IterableDataset):
    """As :class:`ErrorReturningDataset`; a new iteration goes on where the last one stopped."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.dataset  # type: ignore[misc]
        except InputError as error:
            yield error


def raise_errors(batches: Iterable[Any]) -> Iterator[Any]:
    """Pass batches on, and raise what :class:`ErrorReturningDataset` returned instead of one."""
    for batch in batches:
        if isinstance(batch, InputError):
            try:
                raise batch
            finally:  # what its traceback keeps is collected late, and workers whose loader is garbage end late
                del batch, batches
        yield batch

"""The work of a job as a stage of somebody else's pipeline, such as one of NeMo Curator."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_speechlm.errors import SkipItem
from nemo_speechlm.files import Record
from nemo_speechlm.jobs.types import BatchWork, Work
from nemo_speechlm.jobs.work import Unexpected, on_batches, solve

LINE_NUMBER = "line_number"
"""The key that says which line of its manifest an entry is."""


@dataclass
class ManifestStage:
    """Work on batches of manifest entries; the pipeline says where, and with how many CPUs and GPUs.

    An entry's ``line_number`` seeds what is drawn for it, so results are those of a job over the manifest. Without it,
    entries are numbered within their batch.

    >>> def shout(number, line):
    ...     return {"text": json.loads(line)["text"].upper()}
    >>> stage = ManifestStage(lambda: shout, batches=False)
    >>> stage.process([{"text": "a"}, {"text": 1}])[0]
    {'text': 'A'}

    Attributes:
        make_work: makes the function over lines, once in each worker.
        batches: whether it takes a batch of lines (:data:`~nemo_speechlm.jobs.types.BatchWork`) or a single one.
        reason_key: entries that cannot be used come back as they are, with the reason under this key; None raises.
    """

    make_work: Callable[[], Work] | Callable[[], BatchWork]
    batches: bool = True
    reason_key: str | None = "skipped"
    _work: BatchWork | None = field(default=None, init=False, repr=False, compare=False)

    def setup(self, *_: Any) -> None:
        """Make the function over lines; a worker calls this before its first batch, or the first batch does."""
        self._work = on_batches(self.make_work(), not self.batches)

    def process(self, entries: Sequence[Record]) -> list[Record]:
        """Work on entries of a manifest; returns as many, in their order.

        Raises:
            InputError: at an entry that is bad, if there is no ``reason_key``.
        """
        if self._work is None:
            self.setup()
        assert self._work is not None
        lines = [
            (entry.get(LINE_NUMBER, position), json.dumps(_without_number(entry), ensure_ascii=False))
            for position, entry in enumerate(entries, start=1)
        ]
        return [
            self._given_back(entry, result) if isinstance(result, Exception) else _numbered(result, entry)
            for entry, result in zip(entries, solve(self._work, lines), strict=True)
        ]

    def _given_back(self, entry: Record, error: Exception) -> Record:
        if self.reason_key is None and not isinstance(error, SkipItem):
            raise error.error if isinstance(error, Unexpected) else error
        return {**entry, self.reason_key or "skipped": getattr(error, "reason", str(error))}

    def __getstate__(self) -> dict[str, Any]:
        """What was made is made again where this goes to."""
        return {**self.__dict__, "_work": None}


def _without_number(entry: Record) -> Record:
    return {key: value for key, value in entry.items() if key != LINE_NUMBER}


def _numbered(result: Record, entry: Record) -> Record:
    return {**result, LINE_NUMBER: entry[LINE_NUMBER]} if LINE_NUMBER in entry else result

"""A batch of transcribed speech.

Axis legend: B utterances, S samples, U characters or tokens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.pretraining.batch import TextBatch, TokenBatch

REPEATED = " (repeated)"
"""Ends the id of an example that Lhotse gives a second time to a process that would have none."""


def loss_count(batch: Any, reduction: str) -> Tensor | int | None:
    """What NeMo divides the sum of the losses of a batch by; None where the reduction is no such mean."""
    return {"mean_volume": batch[3].sum(), "mean_batch": len(batch[0])}.get(reduction)


def is_repeated(batch: Any) -> bool:
    """Whether nothing of a batch may be counted: another process has counted it, or it only stands in for one."""
    ids = getattr(batch, "ids", ())
    return getattr(batch, "stand_in", False) or (bool(ids) and all(name.endswith(REPEATED) for name in ids))


def batch_text(batch: Any) -> TextBatch | TokenBatch | None:
    """The text that a step has beside its speech; None where it has none."""
    return getattr(batch, "text", None)


def batch_phones(batch: Any) -> tuple[Tensor, Tensor] | None:
    """The phones (B, P) of a batch's transcripts and their lengths (B,); None where it has none."""
    return getattr(batch, "phones", None)


class TranscribedBatch:
    """Audio (B, S), lengths (B,), label ids (B, U), lengths (B,): four tensors, unpacked as NeMo's models do it.

    It is no tuple: data loaders and Lightning take tuples apart and would lose ``ids``, and ``number``, its place in
    the run (None in validation). On other objects they call ``pin_memory`` and ``to``. ``stand_in``, ``read`` and
    ``bad`` are those of a :class:`~nemo_speechlm.data.pretraining.batch.PretrainBatch`. ``text`` is the step's batch
    of text where there is a stream of it; its fields ``on_host`` stay in the host's memory. ``phones`` are those of
    the transcripts, (B, P) and lengths (B,), where the model wants them.
    """

    def __init__(
        self,
        tensors: Iterable[Tensor],
        ids: Sequence[str] = (),
        number: int | None = None,
        stand_in: bool = False,
        read: int = 0,
        bad: tuple[BadExample, ...] = (),
        text: TextBatch | TokenBatch | None = None,
        on_host: Sequence[str] = (),
        phones: tuple[Tensor, Tensor] | None = None,
    ):
        self.tensors = tuple(tensors)
        self.ids = tuple(ids)
        self.number = number
        self.stand_in = stand_in
        self.read = read
        self.bad = bad
        self.text = text
        self.on_host = tuple(on_host)
        self.phones = phones

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int) -> Tensor:
        return self.tensors[index]

    def numbered(self, number: int | None) -> "TranscribedBatch":
        """The batch with its number, and without what was bad."""
        return self._replace(number=number, read=0, bad=())

    def with_bad(self, bad: tuple[BadExample, ...]) -> "TranscribedBatch":
        """The batch with more bad examples."""
        return self._replace(read=self.read + len(bad), bad=(*bad, *self.bad))

    def as_stand_in(self) -> "TranscribedBatch":
        """The batch as one that is not counted, nor what was bad in it."""
        return self._replace(stand_in=True, read=0, bad=())

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> "TranscribedBatch":
        """The batch on another device; Lightning does not say ``non_blocking``, which pays on the way to a GPU."""
        if non_blocking is None:
            non_blocking = torch.device(device).type == "cuda"
        return self._changed(lambda tensor: tensor.to(device, non_blocking=non_blocking), {*self.on_host})

    def pin_memory(self) -> "TranscribedBatch":
        """The batch in pinned memory."""
        return self._changed(Tensor.pin_memory, set())

    def _changed(self, change: Callable[[Tensor], Tensor], kept: set[str]) -> "TranscribedBatch":
        """The batch with its tensors changed, but for the fields of text that are kept."""
        phones = None if self.phones is None else (change(self.phones[0]), change(self.phones[1]))
        return self._replace(tensors=tuple(map(change, self)), text=self._text(kept, change), phones=phones)

    def _text(self, kept: set[str], change: Callable[[Tensor], Tensor]) -> TextBatch | TokenBatch | None:
        """The batch of text with its tensors changed, but for the fields that are kept."""
        if self.text is None:
            return None
        changed: dict[str, Any] = {
            name: change(value)
            for name, value in self.text._asdict().items()
            if name not in kept and isinstance(value, Tensor)
        }
        return self.text._replace(**changed)

    def _replace(self, **changes: Any) -> "TranscribedBatch":
        return TranscribedBatch(**{**vars(self), **changes})

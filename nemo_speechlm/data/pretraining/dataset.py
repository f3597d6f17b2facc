"""From sampled examples to the batch of a pretraining step."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from nemo_speechlm.data.bad_examples import Preparation
from nemo_speechlm.data.pretraining.batch import PretrainBatch
from nemo_speechlm.data.pretraining.streams import Stream


class StandIn(NamedTuple):
    """Examples of another rank, for one that has no batch left."""

    examples: Iterable[Any]


class PretrainDataset(Dataset):
    """A map from the examples of each stream to a :class:`PretrainBatch`; it holds no data itself.

    Where examples are bad, the rest of their batch is as it would be. If none is left of a stream, something made up
    takes their place, and the batch is a ``stand_in``.

    Args:
        streams: those of the model.
        preparation: what becomes of bad examples.
    """

    def __init__(self, streams: Sequence[Stream], preparation: Preparation = Preparation()):  # noqa: B008 - immutable
        self.streams = {stream.name: stream for stream in streams}
        self.preparation = preparation

    def __getitem__(self, examples: Mapping[str, Iterable[Any]]) -> PretrainBatch:
        made = {name: self.streams[name].batch(batch, self.preparation) for name, batch in examples.items()}
        return PretrainBatch(
            **{name: batch for name, (batch, _) in made.items()},
            stand_in=any(prepared.lost for _, prepared in made.values()),
            read=sum(prepared.read for _, prepared in made.values()),
            bad=tuple(bad for _, prepared in made.values() for bad in prepared.bad),
        )


class OneStream(Dataset):
    """As :class:`PretrainDataset`, of a single stream's examples, which is what Lhotse's samplers give.

    Args:
        name: of the stream.
        dataset: makes a batch of a stream's examples, by name.
    """

    def __init__(self, name: str, dataset: Dataset):
        self.name = name
        self.dataset = dataset

    def __getitem__(self, examples: "Iterable[Any] | StandIn") -> Any:
        if isinstance(examples, StandIn):
            return self[examples.examples].as_stand_in()
        return self.dataset[{self.name: examples}]

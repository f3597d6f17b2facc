"""From sampled examples to the batch of a pretraining step."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from nemo_speechlm.data.pretraining.batch import PretrainBatch
from nemo_speechlm.data.pretraining.streams import Stream


class StandIn(NamedTuple):
    """Examples of another rank, for one that has no batch left."""

    examples: Iterable[Any]


class PretrainDataset(Dataset):
    """A map from the examples of each stream to a :class:`PretrainBatch`; it holds no data itself.

    Args:
        streams: those of the model.
    """

    def __init__(self, streams: Sequence[Stream]):
        self.streams = {stream.name: stream for stream in streams}

    def __getitem__(self, examples: Mapping[str, Iterable[Any]]) -> PretrainBatch:
        return PretrainBatch(**{name: self.streams[name].collate(batch) for name, batch in examples.items()})


class OneStream(Dataset):
    """As :class:`PretrainDataset`, of a single stream's examples, which is what Lhotse's samplers give."""

    def __init__(self, stream: Stream):
        self.dataset = PretrainDataset([stream])
        self.name = stream.name

    def __getitem__(self, examples: "Iterable[Any] | StandIn") -> PretrainBatch:
        if isinstance(examples, StandIn):
            return self[examples.examples]._replace(stand_in=True)
        return self.dataset[{self.name: examples}]

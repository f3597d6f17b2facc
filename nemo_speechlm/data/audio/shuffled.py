"""Audio of manifests in random order, a handful of utterances at a time; memory holds two numbers per line at most."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from nemo_speechlm.data.audio.files import Channel, audio_info
from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.audio.utterances import read_utterance, seconds_of
from nemo_speechlm.data.manifests.indexed import IndexedManifests
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import parse_line


class Handful(NamedTuple):
    """Some utterances.

    Attributes:
        audio: (S,) float32 each.
        errors: what was wrong with others.
    """

    audio: list[np.ndarray]
    errors: list[InputError]


@dataclass
class ShuffledAudio(Dataset):
    """The utterances of manifests, shuffled by a seed: item ``i`` is the ``i``-th handful in every process.

    Args:
        manifests: JSON lines with ``audio_filepath``.
        sample_rate: of the audio, in Hz.
        seed: of the order.
        size: utterances in a handful.
        channel: of files with several: one, or ``mix``.
        max_hours: take only so many, drawn at random; None takes all.
        skip_bad: return what is wrong, instead of raising it.

    Attributes:
        utterances: lines that are read.
    """

    manifests: Sequence[str | Path]
    sample_rate: int
    seed: int = 0
    size: int = 32
    channel: Channel = "mix"
    max_hours: float | None = None
    skip_bad: bool = False
    _order: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._lines = IndexedManifests(expand_shards(self.manifests))
        self._order = np.random.default_rng(self.seed).permutation(len(self._lines))
        if self.max_hours is not None:
            self._order = self._order[: self._lines_in(self.max_hours * 3600)]
        self.utterances = len(self._order)

    def __len__(self) -> int:
        return -(-len(self._order) // self.size)

    def __iter__(self) -> Iterator[Handful]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Handful:
        found = Handful([], [])
        for row in self._order[index * self.size : (index + 1) * self.size]:
            file, number, line = self._lines[int(row)]
            try:
                record = parse_line(line, file.path, number, ["audio_filepath"])
                found.audio.append(read_utterance(record, file.path, number, self.sample_rate, self.channel))
            except InputError as error:
                if not self.skip_bad:
                    raise
                found.errors.append(error)
        return found

    def _lines_in(self, seconds: float) -> int:
        """How many of the first lines last so long."""
        total = 0.0
        for count, row in enumerate(self._order, start=1):
            file, number, line = self._lines[int(row)]
            try:
                record = parse_line(line, file.path, number, ["audio_filepath"])
                duration = seconds_of(record, "duration", file.path, number)
                total += audio_info(audio_source(record, file.path, number)).duration if duration is None else duration
            except InputError:
                if not self.skip_bad:
                    raise
            if total >= seconds:
                return count
        return len(self._order)

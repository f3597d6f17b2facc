"""Utterances of similar length in batches, read ahead by worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from nemo_speechlm.data.audio.collation import collate_audio
from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.files import Record


@dataclass(frozen=True)
class Utterance:
    """An utterance, in whole or part of an audio file.

    Attributes:
        record: its line of a manifest, or one made for a file.
        path: the audio file.
        offset: seconds into the file.
        duration: seconds.
        text: the reference, white space tidied; empty where none is asked for.
    """

    record: Record
    path: Path
    offset: float
    duration: float
    text: str = ""


class AudioBatches(Dataset):
    """Batches as NeMo's models take them: audio, lengths, and no transcripts."""

    def __init__(
        self, utterances: Sequence[Utterance], batches: Sequence[Sequence[int] | np.ndarray], sample_rate: int
    ):
        self.utterances, self.batches, self.sample_rate = utterances, batches, sample_rate

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, None, None]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, None, None]:
        own = [self.utterances[i] for i in self.batches[index]]
        audio, lengths = collate_audio(
            [read_audio(u.path, self.sample_rate, u.offset, u.duration) for u in own], self.sample_rate
        )
        return audio, lengths, None, None

"""Utterances of similar length in batches, read ahead by worker processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nemo_speechlm.data.audio.collation import collate_audio
from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.data.length_batches import batches_by_length
from nemo_speechlm.files import Record


@dataclass(frozen=True)
class Utterance:
    """An utterance, in whole or part of an audio file.

    Attributes:
        record: its line of a manifest, or one made for a file.
        path: the audio file, or where it is in a tar.
        offset: seconds into the file.
        duration: seconds.
        text: the reference, white space tidied; empty where none is asked for.
    """

    record: Record
    path: Path | TarAudio
    offset: float
    duration: float
    text: str = ""


class AudioBatches(Dataset):
    """Batches as NeMo's models take them: audio, lengths, and no transcripts."""

    def __init__(self, utterances: Sequence[Utterance], batches: Sequence[np.ndarray], sample_rate: int):
        self.utterances, self.batches, self.sample_rate = utterances, batches, sample_rate

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, None, None]:
        own = [self.utterances[i] for i in self.batches[index]]
        audio, lengths = collate_audio(
            [read_audio(u.path, self.sample_rate, u.offset, u.duration) for u in own], self.sample_rate
        )
        return audio, lengths, None, None


def audio_loader(
    utterances: Sequence[Utterance], sample_rate: int, batch_duration: float, num_workers: int
) -> tuple[list[np.ndarray], DataLoader]:
    """Utterances in batches of similar length, longest first so that memory runs out at once if at all.

    Args:
        utterances: what to read.
        sample_rate: Hz, to which audio is resampled.
        batch_duration: seconds of audio in a batch, padding included; a longer utterance is a batch of its own.
        num_workers: processes that read.

    Returns:
        which utterances each batch has, and a loader of the batches.
    """
    batches = batches_by_length([u.duration for u in utterances], batch_duration, longest_first=True)
    return batches, DataLoader(
        AudioBatches(utterances, batches, sample_rate), batch_size=None, num_workers=num_workers
    )

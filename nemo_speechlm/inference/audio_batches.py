"""Utterances of similar length in batches, read ahead by worker processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from lhotse.dataset.collation import collate_vectors
from torch import Tensor
from torch.utils.data import Dataset

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record

SHORTEST = 0.1
"""Seconds to which shorter utterances are filled up with silence."""


class AudioPart(Protocol):
    """What is read: a part of an audio file, in seconds."""

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def offset(self) -> float: ...  # noqa: D102
    @property
    def duration(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Utterance:
    """One line of a manifest.

    Attributes:
        line: its number there.
        record: the JSON object.
        path: the audio file.
        offset: seconds into the file.
        duration: seconds.
        text: the reference, white space tidied.
    """

    line: int
    record: Record
    path: Path
    offset: float
    duration: float
    text: str


def length_batches(durations: list[float], batch_duration: float) -> list[list[int]]:
    """Indices in batches, longest first; longest times count stays within ``batch_duration`` if it can.

    >>> length_batches([1.0, 4.0, 2.0, 1.5], 4.0)
    [[1], [2, 3], [0]]
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(durations)), key=lambda i: (-durations[i], i)):
        if batches and durations[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_duration:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class AudioBatches(Dataset):
    """Batches as NeMo's models take them: audio, lengths, and no transcripts."""

    def __init__(self, utterances: Sequence[AudioPart], batches: list[list[int]], sample_rate: int):
        self.utterances, self.batches, self.sample_rate = utterances, batches, sample_rate

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, None, None]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, None, None]:
        audio = [_read(self.utterances[i], self.sample_rate) for i in self.batches[index]]
        # Less than a frame of audio breaks front ends; a little silence does no harm.
        shortest = round(SHORTEST * self.sample_rate)
        audio = [torch.nn.functional.pad(a, (0, max(0, shortest - len(a)))) for a in audio]
        return collate_vectors(audio, padding_value=0.0), torch.tensor([len(a) for a in audio]), None, None


def _read(utterance: AudioPart, sample_rate: int) -> Tensor:
    return torch.from_numpy(read_audio(utterance.path, sample_rate, utterance.offset, utterance.duration))


def autocast(device_type: str, precision: str) -> torch.autocast:
    """A context in which a model computes in ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        InputError: if there is no such precision.
    """
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision not in kinds:
        raise InputError(f"precision is {precision!r}, expected one of {', '.join(kinds)}")
    return torch.autocast(device_type, kinds[precision], enabled=precision != "float32")

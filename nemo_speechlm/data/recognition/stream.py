"""Transcribed speech as a stream of training data, in the exact order that pretraining has."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lhotse import CutSet
from lhotse.cut import Cut
from torch.utils.data import Dataset

from nemo_speechlm.data.pretraining.manifest_reader import ManifestReader
from nemo_speechlm.data.pretraining.streams import Stream
from nemo_speechlm.data.pretraining.transcripts_reader import TranscriptsReader
from nemo_speechlm.data.recognition.batch import TranscribedBatch
from nemo_speechlm.data.recognition.transcripts import TranscribedSpeechDataset
from nemo_speechlm.data.text.characters import TextEncoder


@dataclass(frozen=True)
class TranscribedStream(Stream):
    """Utterances with transcripts.

    Attributes:
        encoder: writes a transcript as label ids.
        sample_rate: of the audio in batches, Hz.
    """

    name: ClassVar[str] = "transcripts"
    reader: ClassVar[type[ManifestReader]] = TranscriptsReader
    # They make one cut of several or several of one, or ask for more than the audio and the text.
    nemos: ClassVar[tuple[str, ...]] = (
        "concatenate_samples",
        "truncate_duration",
        "cut_into_windows_duration",
        "pad_min_duration",
        "channel_selector",
        "min_tps",
        "max_tps",
        "max_cer",
    )

    encoder: TextEncoder
    sample_rate: int = 16000

    def facts(self) -> dict[str, Any]:
        """Of :class:`TranscriptsReader`."""
        return {"sample_rate": self.sample_rate}

    def collate(self, examples: Iterable[Cut]) -> TranscribedBatch:
        """Pad audio and label ids with zeros."""
        return TranscribedSpeechDataset(self.encoder, self.sample_rate)[CutSet(list(examples))]


class TranscribedSteps(Dataset):
    """The batch of a training step, of the examples of its only stream."""

    def __init__(self, stream: TranscribedStream):
        self.stream = stream

    def __getitem__(self, examples: Mapping[str, Iterable[Cut]]) -> TranscribedBatch:
        return self.stream.collate(examples[self.stream.name])

"""Transcribed speech as a stream of training data, in the exact order that pretraining has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lhotse.cut import Cut
from torch import Tensor
from torch.utils.data import Dataset

from nemo_speechlm.data.bad_examples import Preparation, Prepared
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

    def prepare(self, example: Cut) -> tuple[Tensor, Tensor]:
        """Audio (S,) and label ids (U,)."""
        return TranscribedSpeechDataset(self.encoder, self.sample_rate).prepare(example)

    def join(self, examples: Sequence[Cut], content: Sequence[tuple[Tensor, Tensor]]) -> TranscribedBatch:
        """Pad with zeros."""
        prepared = Prepared(list(examples), list(content), (), 0, False)
        return TranscribedSpeechDataset(self.encoder, self.sample_rate).join(prepared)


class TranscribedSteps(Dataset):
    """The batch of a training step, of the examples of its only stream.

    Args:
        streams: that stream.
        preparation: what becomes of bad examples.
    """

    def __init__(self, streams: Sequence[Stream], preparation: Preparation = Preparation()):  # noqa: B008 - immutable
        (stream,) = streams
        assert isinstance(stream, TranscribedStream)
        self.name = stream.name
        self.dataset = TranscribedSpeechDataset(stream.encoder, stream.sample_rate, preparation)

    def __getitem__(self, examples: Mapping[str, Iterable[Cut]]) -> TranscribedBatch:
        return self.dataset[examples[self.name]]

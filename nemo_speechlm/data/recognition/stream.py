"""Transcribed speech as a stream of training data, in the exact order that pretraining has."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lhotse.cut import Cut
from lhotse.dataset.collation import collate_vectors
from torch import Tensor
from torch.utils.data import Dataset

from nemo_speechlm.data.bad_examples import Preparation
from nemo_speechlm.data.pretraining.manifest_reader import ManifestReader
from nemo_speechlm.data.pretraining.streams import Stream, noise
from nemo_speechlm.data.pretraining.transcripts_reader import TranscriptsReader
from nemo_speechlm.data.pretraining.utterance_audio import audio_of
from nemo_speechlm.data.recognition.batch import TranscribedBatch
from nemo_speechlm.data.recognition.transcripts import place_of, source_of, transcript_of
from nemo_speechlm.data.text.characters import TextEncoder
from nemo_speechlm.errors import InputError


@dataclass(frozen=True)
class TranscribedStream(Stream):
    """Utterances with transcripts.

    Attributes:
        encoder: writes a transcript as label ids.
        sample_rate: of the audio in batches, Hz.
        phones: writes it as phones too, or None.
    """

    name: ClassVar[str] = "transcripts"
    reader: ClassVar[type[ManifestReader]] = TranscriptsReader
    unfit: ClassVar[tuple[str, ...]] = ("truncate_duration", "cut_into_windows_duration")
    takes_nemos: ClassVar[bool] = True
    # They make one cut of several or several of one, or ask for more than the audio and the text.
    nemos: ClassVar[tuple[str, ...]] = (
        "concatenate_samples",
        "pad_min_duration",
        "min_tps",
        "max_tps",
        "max_cer",
    )

    encoder: TextEncoder
    sample_rate: int = 16000
    phones: TextEncoder | None = None

    def facts(self) -> dict[str, Any]:
        """Of :class:`TranscriptsReader`."""
        return {"sample_rate": self.sample_rate}

    def prepare(self, example: Cut) -> tuple[Tensor, ...]:
        """Audio (S,) and label ids (U,), and phones (P,) where they are wanted."""
        audio, text = torch.from_numpy(audio_of(example, self.sample_rate)), transcript_of(example)
        try:
            written = [encoder(text) for encoder in (self.encoder, self.phones) if encoder is not None]
            return audio, *(torch.tensor(ids, dtype=torch.long) for ids in written)
        except InputError as error:
            raise InputError(error.reason, source_of(example)) from None

    def join(self, examples: Sequence[Cut], content: Sequence[tuple[Tensor, ...]]) -> TranscribedBatch:
        """Pad with zeros."""
        audio, ids, *phones = zip(*content, strict=True)
        tensors = (
            collate_vectors(audio, padding_value=0.0),
            torch.tensor([len(a) for a in audio]),
            collate_vectors(ids, padding_value=0),
            torch.tensor([len(i) for i in ids]),
        )
        batch = TranscribedBatch(tensors, tuple(place_of(cut) for cut in examples))
        if not phones:
            return batch
        lengths = torch.tensor([len(row) for row in phones[0]])
        return batch._replace(phones=(collate_vectors(phones[0], padding_value=0), lengths))

    def made_up(self) -> tuple[Tensor, ...]:
        """Noise, with the first label, and the first phone where phones are wanted."""
        one = torch.zeros(1, dtype=torch.long)
        return torch.from_numpy(noise(self.sample_rate)), one, *(() if self.phones is None else (one,))


class TranscribedSpeechDataset(Dataset):
    """What NeMo's Lhotse loader asks for batches: cuts in; audio, lengths, label ids, lengths out.

    Args:
        stream: makes a batch of cuts.
        preparation: what becomes of bad examples. If none is left of a batch, another one stands in.
    """

    def __init__(self, stream: TranscribedStream, preparation: Preparation = Preparation()):  # noqa: B008 - immutable
        self.stream = stream
        self.preparation = preparation

    def __getitem__(self, cuts: Iterable[Cut]) -> TranscribedBatch:
        """Load a batch.

        Returns:
            audio (B, S), lengths (B,) in samples, label ids (B, U), lengths (B,).

        Raises:
            InputError: if an audio file cannot be decoded, holds no samples, or its text has unknown characters.
        """
        batch, prepared = self.stream.batch(cuts, self.preparation)
        return batch._replace(stand_in=prepared.lost, read=prepared.read, bad=prepared.bad)


class TranscribedSteps(Dataset):
    """The batch of a training step: transcribed speech, and text beside it where there is a stream of that.

    Args:
        streams: transcribed speech, and maybe text.
        preparation: what becomes of bad examples.
    """

    def __init__(self, streams: Sequence[Stream], preparation: Preparation = Preparation()):  # noqa: B008 - immutable
        stream, *others = streams
        assert isinstance(stream, TranscribedStream)
        self.name = stream.name
        self.dataset = TranscribedSpeechDataset(stream, preparation)
        self.text = others[0] if others else None
        self.preparation = preparation

    def __getitem__(self, examples: Mapping[str, Iterable[Any]]) -> TranscribedBatch:
        batch = self.dataset[examples[self.name]]
        if self.text is None:
            return batch
        text, prepared = self.text.batch(examples[self.text.name], self.preparation)
        read, bad = batch.read + prepared.read, (*batch.bad, *prepared.bad)
        return batch._replace(text=text, on_host=self.text.on_host, read=read, bad=bad)

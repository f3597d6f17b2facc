"""Recordings of any length to text: cut at silences, recognized in batches, put together file by file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from nemo.collections.asr.models import ASRModel, EncDecCTCModel
from nemo.collections.asr.parts.mixins import TranscribeConfig
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nemo_speechlm.data.audio import Channel
from nemo_speechlm.data.audio_stream import Segment, cut_at_silences, stream_audio
from nemo_speechlm.decoding.decoders import DecodingOptions
from nemo_speechlm.decoding.times import TimedWord, timed_words
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.beam_decoding import CTCText
from nemo_speechlm.evaluation.recognition import SHORTEST, autocast, hypothesis_text


@dataclass(frozen=True)
class Passage:
    """What was said in a segment.

    Attributes:
        start: seconds from the beginning of the recording.
        end: seconds.
        text: its words.
        words: in time, if the model tells.
    """

    start: float
    end: float
    text: str
    words: list[TimedWord] = field(default_factory=list)


@dataclass
class Transcript:
    """What was said in a recording.

    Attributes:
        path: the file.
        duration: seconds that were read.
        passages: in order.
        error: what went wrong, if anything.
    """

    path: Path
    duration: float = 0.0
    passages: list[Passage] = field(default_factory=list)
    error: str | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(passage.text for passage in self.passages if passage.text)

    @property
    def words(self) -> list[TimedWord]:
        """All words; a passage whose words have no times is one word."""
        return [
            word
            for p in self.passages
            for word in (p.words or ([TimedWord(p.text, p.start, p.end, 1.0)] if p.text else []))
        ]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        passages = []
        for passage in self.passages:
            entry: dict[str, Any] = {"start": round(passage.start, 3), "end": round(passage.end, 3)}
            entry["text"] = passage.text
            if passage.words:
                entry["words"] = [
                    {"word": w.text, "start": w.start, "end": w.end, "confidence": round(w.confidence, 4)}
                    for w in passage.words
                ]
            passages.append(entry)
        duration = round(self.duration, 3)
        return {"audio_filepath": str(self.path), "duration": duration, "text": self.text, "segments": passages}


class Recognizer(Protocol):
    """Turns segments into passages, a batch at a time."""

    def __call__(self, segments: Sequence[Segment], sample_rate: int) -> list[Passage]:
        """Recognize a batch."""
        ...


class CTCRecognizer:
    """A CTC model with any decoder; words come with their times.

    Args:
        model: NeMo's or ours.
        options: how to decode.
        precision: of the model.
    """

    def __init__(self, model: EncDecCTCModel, options: DecodingOptions, precision: str = "float32"):
        self._model, self._options, self._precision = model, options, precision
        self._text = CTCText.of(model, options)

    @torch.inference_mode()
    def __call__(self, segments: Sequence[Segment], sample_rate: int) -> list[Passage]:
        """See :class:`Recognizer`."""
        audio, lengths = _collate(segments, sample_rate)
        device = self._model.device
        with autocast(device.type, self._precision):
            outputs, frames, _ = self._model.forward(
                input_signal=audio.to(device), input_signal_length=lengths.to(device)
            )
        log_probs = [x[:n] for x, n in zip(outputs.float().cpu().numpy(), frames.tolist(), strict=True)]
        decoded = self._text.decode(log_probs, self._options, quiet=True)
        passages = []
        for segment, x_TV, found in zip(segments, log_probs, decoded, strict=True):
            seconds = len(segment.samples) / sample_rate
            # an utterance that was filled up with silence has more frames than its own seconds
            rate = len(x_TV) / max(seconds, SHORTEST)
            words = [
                TimedWord(w.text, round(segment.start + w.start, 3), round(segment.start + w.end, 3), w.confidence)
                for w in timed_words(x_TV, found.tokens, self._text.labels, rate)
            ]
            passages.append(Passage(segment.start, segment.start + seconds, self._text.text(found), words))
        return passages


class PlainRecognizer:
    """Any of NeMo's recognition or translation models that needs no prompt; passages without words' times."""

    def __init__(self, model: ASRModel, precision: str = "float32"):
        self._model, self._precision = model, precision

    @torch.inference_mode()
    def __call__(self, segments: Sequence[Segment], sample_rate: int) -> list[Passage]:
        """See :class:`Recognizer`."""
        loader = DataLoader(_One(*_collate(segments, sample_rate)), batch_size=None)
        settings = TranscribeConfig(batch_size=1, num_workers=0, verbose=False)
        with autocast(self._model.device.type, self._precision):
            (hypotheses,) = self._model.transcribe_generator(loader, settings)
        return [
            Passage(s.start, s.start + len(s.samples) / sample_rate, " ".join(hypothesis_text(h).split()))
            for s, h in zip(segments, hypotheses, strict=True)
        ]


@dataclass(frozen=True)
class CuttingOptions:
    """How recordings are cut and batched.

    Args:
        max_segment: seconds of the longest segment.
        min_segment: seconds of the shortest, but for a recording's last.
        silence: dB below full scale; segments that are nowhere louder are left out; None: none are.
        batch_duration: seconds of audio in a batch, padding included.
        channel: of files with several.
    """

    max_segment: float = 30.0
    min_segment: float = 5.0
    silence: float | None = -60.0
    batch_duration: float = 120.0
    channel: Channel = "mix"


def transcribe_files(
    paths: Sequence[Path],
    recognize: Recognizer,
    sample_rate: int,
    options: CuttingOptions,
    progress: Callable[[float], object] = lambda seconds: None,
) -> Iterator[Transcript]:
    """Transcribe files in order; a file that cannot be read does not keep the others from being.

    Segments of several short files share a batch; of a long one, no more than a batch is in memory.

    Args:
        paths: audio files.
        recognize: what does the work.
        sample_rate: the model's, in Hz.
        options: how recordings are cut.
        progress: called with the seconds of audio that were done since it was last called.
    """
    waiting: list[tuple[Transcript, Segment]] = []
    open_transcripts: list[Transcript] = []

    def work() -> None:
        passages = recognize([segment for _, segment in waiting], sample_rate)
        for (owner, segment), passage in zip(waiting, passages, strict=True):
            owner.passages.append(passage)
            progress(len(segment.samples) / sample_rate)
        waiting.clear()

    for path in paths:
        transcript = Transcript(path)
        open_transcripts.append(transcript)
        try:
            for segment in _segments(transcript, sample_rate, options):
                longest = max([len(segment.samples), *(len(s.samples) for _, s in waiting)]) / sample_rate
                if waiting and longest * (len(waiting) + 1) > options.batch_duration:
                    work()
                waiting.append((transcript, segment))
        except InputError as error:
            transcript.error = error.reason
            waiting = [(owner, segment) for owner, segment in waiting if owner is not transcript]
        busy = {id(owner) for owner, _ in waiting}
        while open_transcripts and id(open_transcripts[0]) not in busy:
            yield open_transcripts.pop(0)
    if waiting:
        work()
    yield from open_transcripts


def _segments(transcript: Transcript, sample_rate: int, options: CuttingOptions) -> Iterator[Segment]:
    def counted() -> Iterator[np.ndarray]:
        for block in stream_audio(transcript.path, sample_rate, options.channel):
            transcript.duration += len(block) / sample_rate
            yield block

    return cut_at_silences(counted(), sample_rate, options.max_segment, options.min_segment, options.silence)


def _collate(segments: Sequence[Segment], sample_rate: int) -> tuple[Tensor, Tensor]:
    """Audio (B, T) and lengths (B,); less than a frame of audio breaks front ends, so silence fills it up."""
    shortest = round(SHORTEST * sample_rate)
    lengths = torch.tensor([max(len(s.samples), shortest) for s in segments])
    audio = torch.zeros(len(segments), int(lengths.max()))
    for row, segment in zip(audio, segments, strict=True):
        row[: len(segment.samples)] = torch.from_numpy(segment.samples)
    return audio, lengths


class _One(Dataset):
    """One batch as NeMo's models take it."""

    def __init__(self, audio: Tensor, lengths: Tensor):
        self._batch = audio, lengths, None, None

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator:
        yield self._batch

    def __getitem__(self, index: int) -> tuple:
        return self._batch

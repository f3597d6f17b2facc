"""Recordings of any length to text: cut at silences, recognized in batches, put together file by file."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from nemo_speechlm.data.audio.files import Channel
from nemo_speechlm.data.audio.stream import Segment, cut_at_silences, stream_audio
from nemo_speechlm.decoding.times import TimedWord
from nemo_speechlm.errors import InputError
from nemo_speechlm.inference.recognizers import Passage, Recognizer
from nemo_speechlm.models.common.batching import BATCH_DURATION, batch_seconds


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


@dataclass(frozen=True)
class CuttingOptions:
    """How recordings are cut and batched.

    Args:
        max_segment: seconds of the longest segment.
        min_segment: seconds of the shortest, but for a recording's last.
        silence: dB below full scale; segments that are nowhere louder are left out; None: none are.
        batch_duration: seconds of audio in a batch, padding included; 0: segments one by one.
        channel: of files with several.
    """

    max_segment: float = 30.0
    min_segment: float = 5.0
    silence: float | None = -60.0
    batch_duration: float = BATCH_DURATION
    channel: Channel = "mix"

    @classmethod
    def of(cls, cfg: DictConfig, longest: float | None, one_by_one: bool = False) -> "CuttingOptions":
        """Read them from a config whose keys have the same names.

        Args:
            cfg: the config; ``batch_duration`` may be missing or null.
            longest: seconds that the model takes at once. A ``max_segment`` above it is lowered, and this is said.
            one_by_one: whether segments are batches of their own unless ``batch_duration`` says otherwise.
        """
        max_segment, min_segment = cfg.max_segment, cfg.min_segment
        if longest is not None and max_segment > longest:
            print(
                f"max_segment={max_segment:g} is more than the model takes; cutting at {longest:g} s", file=sys.stderr
            )
            max_segment, min_segment = longest, min(min_segment, longest / 2)
        seconds = batch_seconds(cfg.get("batch_duration"), one_by_one)
        return cls(max_segment, min_segment, cfg.silence, seconds, cfg.channel)


def transcribe_files(
    paths: Sequence[Path],
    recognize: Recognizer,
    sample_rate: int,
    options: CuttingOptions,
    progress: Callable[[float], object] = lambda seconds: None,
) -> Iterator[Transcript]:
    """Transcribe files in order; an unreadable file does not stop the others.

    Segments of several short files share a batch; of a long file, at most one batch is in memory.

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

"""Transcribed speech for recognition models: manifests checked as a whole, batches of audio and characters.

NeMo's character parser drops characters that the model does not have and lowers case, and its Lhotse dataset leaves
out audio that does not load, all without a word. Here each is an error that says where.

Axis legend: B utterances, S samples, U characters.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset.collation import collate_vectors
from torch import Tensor

from nemo_speechlm.data.manifests.lines import audio_path, read_manifest, text_of
from nemo_speechlm.data.pretraining.utterance_audio import audio_of, base_of
from nemo_speechlm.data.recognition.batch import REPEATED, TranscribedBatch
from nemo_speechlm.data.text.characters import TextEncoder, ctc_frames
from nemo_speechlm.errors import InputError

_LHOTSES_MARK = re.compile(r"_dup\d+$")


@dataclass(frozen=True)
class TranscriptStatistics:
    """What a manifest holds.

    Attributes:
        utterances: those between the shortest and the longest duration allowed.
        hours: their audio.
        characters: their text.
        left_out: utterances that are shorter or longer.
        frame_rates: (utterances,) the frames per second that CTC needs to spell each.
        longest_audio: seconds of the longest utterance.
        longest_text: label ids of the longest text.
    """

    utterances: int
    hours: float
    characters: int
    left_out: int
    frame_rates: np.ndarray
    longest_audio: float = 0.0
    longest_text: int = 0

    def __str__(self) -> str:
        skipped = f"; {self.left_out} left out for their duration" if self.left_out else ""
        return f"{self.utterances} utterances, {self.hours:.2f} h, {self.characters} characters{skipped}"


def check_transcripts(
    manifest: str | Path,
    encoder: TextEncoder,
    *,
    text_field: str = "text",
    need_audio: bool = True,
    min_duration: float = 0.0,
    max_duration: float = float("inf"),
) -> TranscriptStatistics:
    """Read a manifest through before training begins.

    Args:
        manifest: JSON lines with ``audio_filepath``, ``duration`` and the text.
        encoder: a :class:`CharacterEncoder` or the like; knows what may occur.
        text_field: the text's key.
        need_audio: audio files must be there (not so for tarred audio).
        min_duration: seconds; shorter utterances will be left out.
        max_duration: seconds; longer ones will be.

    Raises:
        InputError: with file and line, at the first line that is not usable; or if no utterance is left.
    """
    seconds, characters, left_out = 0.0, 0, 0
    longest_audio, longest_text = 0.0, 0
    frame_rates: list[float] = []
    unknown: list[tuple[int, str]] = []
    for number, record in read_manifest(manifest, required=("audio_filepath", "duration", text_field)):
        text = text_of(record, text_field, manifest, number)
        try:
            ids = encoder(text, manifest, number)
        except InputError as error:
            unknown.append((number, error.reason))
            continue
        duration = record["duration"]
        if isinstance(duration, bool) or not isinstance(duration, int | float) or not duration > 0:
            raise InputError(f"'duration' is {duration!r}, expected seconds of audio", manifest, number)
        if need_audio:
            _check_file(audio_path(record, manifest), manifest, number)
        if min_duration <= duration <= max_duration:
            seconds, characters = seconds + duration, characters + len(ids)
            frame_rates.append(ctc_frames(ids) / duration)
            longest_audio, longest_text = max(longest_audio, float(duration)), max(longest_text, len(ids))
        else:
            left_out += 1
    if unknown:
        number, reason = unknown[0]
        lines = ", ".join(str(other) for other, _ in unknown[:20]) + (", ..." if len(unknown) > 20 else "")
        more = f" ({len(unknown)} lines like this: {lines})" if len(unknown) > 1 else ""
        raise InputError(reason + more, manifest, number)
    if not frame_rates:
        raise InputError(f"none of its utterances lasts between {min_duration} and {max_duration} s", manifest)
    rates = np.asarray(frame_rates, dtype=np.float32)
    return TranscriptStatistics(len(rates), seconds / 3600, characters, left_out, rates, longest_audio, longest_text)


def _check_file(path: Path, manifest: str | Path, number: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"audio file {path} cannot be read: {error.strerror}", manifest, number) from None
    if not size:
        raise InputError(f"audio file {path} is empty", manifest, number)


class TranscribedSpeechDataset(torch.utils.data.Dataset):
    """What NeMo's Lhotse loader asks for batches: cuts in; audio, lengths, label ids, lengths out."""

    def __init__(self, encoder: TextEncoder, sample_rate: int = 16000):
        self.encoder, self.sample_rate = encoder, sample_rate

    def __getitem__(self, cuts: CutSet) -> TranscribedBatch:
        """Load a batch.

        Returns:
            audio (B, S), lengths (B,) in samples, label ids (B, U), lengths (B,).

        Raises:
            InputError: if an audio file cannot be decoded, holds no samples, or its text has unknown characters.
        """
        audio = [load_audio(cut, self.sample_rate) for cut in cuts]
        ids = [torch.tensor(self._encode(cut), dtype=torch.long) for cut in cuts]
        tensors = (
            collate_vectors(audio, padding_value=0.0),
            torch.tensor([len(a) for a in audio]),
            collate_vectors(ids, padding_value=0),
            torch.tensor([len(i) for i in ids]),
        )
        return TranscribedBatch(tensors, tuple(_place(cut) for cut in cuts))

    def _encode(self, cut: Cut) -> list[int]:
        text = base_of(cut).custom["text"] if _is_ours(cut) else _supervised(cut)
        try:
            return self.encoder(text)
        except InputError as error:
            raise InputError(error.reason, _source(cut)) from None


def load_audio(cut: Cut, sample_rate: int) -> Tensor:
    """The cut's samples (S,), channels averaged.

    Args:
        cut: of Lhotse, which NeMo has made to be resampled, or of :class:`TranscriptsReader`.
        sample_rate: Hz, to which the latter is resampled.

    Raises:
        InputError: if the file cannot be decoded or holds no samples.
    """
    if _is_ours(cut):
        return torch.from_numpy(audio_of(cut, sample_rate))
    try:
        samples = np.atleast_2d(cut.load_audio())
    except Exception as error:  # each decoder has its own
        raise InputError(f"audio cannot be decoded: {error}", _source(cut)) from error
    if not samples.size:
        raise InputError("audio holds no samples", _source(cut))
    if not np.isfinite(samples).all():
        raise InputError("audio holds samples that are not finite numbers", _source(cut))
    return torch.from_numpy(samples.mean(axis=0, dtype=np.float32))


def _place(cut: Cut) -> str:
    """The audio of a cut, where in its file it begins if that is not the start, and whether it is a repeated one."""
    start = getattr(base_of(cut), "start", 0.0)
    place = f"{_source(cut)} at {start:g} s" if start else _source(cut)
    return place + (REPEATED if _LHOTSES_MARK.search(str(cut.id)) else "")


def _is_ours(cut: Cut) -> bool:
    """Whether it is a cut of :class:`TranscriptsReader`, maybe with noise."""
    custom = getattr(base_of(cut), "custom", None) or {}
    return "manifest" in custom and "text" in custom


def _supervised(cut: Cut) -> str:
    return " ".join(supervision.text or "" for supervision in cut.supervisions)


def _source(cut: Cut) -> str:
    if _is_ours(cut):
        base = base_of(cut)
        return "/".join(base.custom["tar"]) if "tar" in base.custom else str(base.recording.id)
    recordings: Iterable = getattr(getattr(cut, "recording", None), "sources", ()) or ()
    paths = [str(source.source) for source in recordings if source.type == "file"]
    return paths[0] if paths else str(cut.id)

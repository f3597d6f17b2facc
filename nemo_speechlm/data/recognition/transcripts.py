"""Transcribed speech for recognition models: manifests checked as a whole, the audio and the text of an utterance.

NeMo's character parser drops characters that the model does not have and lowers case, and its Lhotse dataset leaves
out audio that does not load, all without a word. Here each is an error that says where.

Axis legend: B utterances, S samples, U characters.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lhotse.cut import Cut

from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.manifests.lines import text_of
from nemo_speechlm.data.pretraining.utterance_audio import base_of, files_of, name_of
from nemo_speechlm.data.recognition.batch import REPEATED
from nemo_speechlm.data.text.characters import TextEncoder, ctc_frames
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, iter_lines, parse_line
from nemo_speechlm.storage import is_url

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
        bad: lines that cannot be used.
    """

    utterances: int
    hours: float
    characters: int
    left_out: int
    frame_rates: np.ndarray
    longest_audio: float = 0.0
    longest_text: int = 0
    bad: tuple[BadExample, ...] = ()

    def __str__(self) -> str:
        skipped = f"; {self.left_out} left out for their duration" if self.left_out else ""
        bad = f"; {len(self.bad)} left out because they cannot be used" if self.bad else ""
        return f"{self.utterances} utterances, {self.hours:.2f} h, {self.characters} characters{skipped}{bad}"


def check_transcripts(
    manifest: str | Path,
    encoder: TextEncoder,
    *,
    text_field: str = "text",
    need_audio: bool = True,
    min_duration: float = 0.0,
    max_duration: float = float("inf"),
    skip_bad: bool = False,
) -> TranscriptStatistics:
    """Read a manifest through before training begins.

    Args:
        manifest: JSON lines with ``audio_filepath``, ``duration`` and the text.
        encoder: a :class:`CharacterEncoder` or the like; knows what may occur.
        text_field: the text's key.
        need_audio: audio files must be there (not so for tarred audio).
        min_duration: seconds; shorter utterances will be left out.
        max_duration: seconds; longer ones will be.
        skip_bad: lines that are not usable are left out, and told of in the statistics.

    Raises:
        InputError: with file and line, at the first line that is not usable; or if no utterance is left.
    """
    seconds, characters, left_out = 0.0, 0, 0
    longest_audio, longest_text = 0.0, 0
    frame_rates: list[float] = []
    unknown: list[tuple[int, str]] = []
    bad: list[BadExample] = []
    for number, line in iter_lines(manifest):
        try:
            record = parse_line(line, manifest, number, ("audio_filepath", "duration", text_field))
            duration = _check_record(record, text_field, need_audio, manifest, number)
            ids = _encoded(record[text_field], encoder, manifest, number, None if skip_bad else unknown)
        except InputError as error:
            if not skip_bad:
                raise
            bad.append(BadExample.of(error))
            continue
        if ids is None:
            continue
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
        _refuse(left_out, bad, f"lasts between {min_duration} and {max_duration} s", manifest)
    rates = np.asarray(frame_rates, dtype=np.float32)
    return TranscriptStatistics(
        len(rates), seconds / 3600, characters, left_out, rates, longest_audio, longest_text, tuple(bad)
    )


def _check_record(record: Record, text_field: str, need_audio: bool, manifest: str | Path, number: int) -> float:
    """The duration of a record, in seconds, after the look at the rest."""
    text_of(record, text_field, manifest, number)
    duration = record["duration"]
    if isinstance(duration, bool) or not isinstance(duration, int | float) or not duration > 0:
        raise InputError(f"'duration' is {duration!r}, expected seconds of audio", manifest, number)
    if not isinstance(record["audio_filepath"], str):
        raise InputError(f"audio_filepath is {record['audio_filepath']!r}, expected a path", manifest, number)
    if need_audio:
        _check_file(audio_source(record, manifest, number), manifest, number)
    return float(duration)


def _encoded(
    text: str, encoder: TextEncoder, manifest: str | Path, number: int, unknown: list[tuple[int, str]] | None
) -> list[int] | None:
    """The ids of a text; None after a note in ``unknown``, where there is one, of what cannot be written."""
    try:
        return encoder(text, manifest, number)
    except InputError as error:
        if unknown is None:
            raise
        unknown.append((number, error.reason))
        return None


def _refuse(left_out: int, bad: Sequence[BadExample], lasts: str, manifest: str | Path) -> None:
    """Raise because no utterance is left."""
    if bad:
        raise InputError(f"none of its {len(bad) + left_out} utterances can be used. {bad[0].reason}", *bad[0][:2])
    if not left_out:
        raise InputError("the manifest is empty", manifest)
    raise InputError(f"none of its utterances {lasts}", manifest)


def _check_file(source: Path | TarAudio, manifest: str | Path, number: int) -> None:
    if isinstance(source, TarAudio) and is_url(source.path):  # the reader looks at some of them
        return
    path = source if isinstance(source, Path) else Path(source.path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"audio file {path} cannot be read: {error.strerror}", manifest, number) from None
    if not path.is_file():
        raise InputError(f"audio file {path} is not a regular file", manifest, number)
    if not size:
        raise InputError(f"audio file {path} is empty", manifest, number)


def place_of(cut: Cut) -> str:
    """The audio of a cut, where in its file it begins if that is not the start, and whether it is a repeated one."""
    start = getattr(base_of(cut), "start", 0.0)
    place = f"{source_of(cut)} at {start:g} s" if start else source_of(cut)
    return place + (REPEATED if _LHOTSES_MARK.search(str(cut.id)) else "")


def transcript_of(cut: Cut) -> str:
    """The text of a cut of :class:`TranscriptsReader` or of Lhotse."""
    if _is_ours(cut):
        return base_of(cut).custom["text"]
    return " ".join(supervision.text or "" for supervision in cut.supervisions)


def _is_ours(cut: Cut) -> bool:
    """Whether it is a cut of :class:`TranscriptsReader`, maybe with noise."""
    custom = getattr(base_of(cut), "custom", None) or {}
    return "manifest" in custom and "text" in custom


def source_of(cut: Cut) -> str:
    """The file of a cut's audio, or its id where there is none."""
    base = base_of(cut)
    if _is_ours(cut):
        return str(base.custom.get("tar", base.recording.id))
    return next(files_of(base), name_of(cut))

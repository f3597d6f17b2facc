"""Audio of any length: read block by block and cut where it is quietest, so that memory does not grow with it.

Axis legend: T samples.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from nemo_speechlm.data.audio.files import Channel, check_samples, open_audio, reason_of
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.errors import InputError

_BLOCK = 1 << 16
_FRAME = 0.01
"""Seconds over which loudness is measured."""
_PAUSE = 0.3
"""Seconds of quiet that make a good place to cut; shorter pauses will do where there is none."""


class Segment(NamedTuple):
    """A part of a recording.

    Attributes:
        start: seconds from its beginning.
        samples: (T,) float32.
    """

    start: float
    samples: np.ndarray


def stream_audio(
    path: str | Path | TarAudio, sample_rate: int = 16000, channel: Channel = "mix"
) -> Iterator[np.ndarray]:
    """Yield one channel of an audio file, resampled, in blocks (T,) float32 of some seconds.

    Args:
        path: whatever libsndfile reads.
        sample_rate: of the result, in Hz.
        channel: which one, counted from 0, or ``"mix"`` for the mean of all.

    Raises:
        InputError: if it is missing, not audio, cannot be read to its end, has no samples or no such channel.
    """
    with open_audio(path) as file:
        if channel != "mix" and not (isinstance(channel, int) and 0 <= channel < file.channels):
            raise InputError(f"no channel {channel!r}; it has {file.channels}, counted from 0, or 'mix'", str(path))
        resampler = None
        if file.samplerate != sample_rate:
            resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32")
        found = False
        blocks = file.blocks(blocksize=_BLOCK, dtype="float32", always_2d=True)
        while True:
            try:
                block = next(blocks, None)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise InputError(f"audio cannot be read to its end: {reason_of(error)}", str(path)) from error
            if block is None:
                break
            mono = block.mean(axis=1) if channel == "mix" else np.ascontiguousarray(block[:, int(channel)])
            check_samples(mono, str(path))
            found = found or len(mono) > 0
            out = mono if resampler is None else resampler.resample_chunk(mono)
            if len(out):
                yield out
        if not found:
            raise InputError("audio with no samples", str(path))
        if resampler is not None and len(rest := resampler.resample_chunk(np.zeros(0, np.float32), last=True)):
            yield rest


def cut_at_silences(
    blocks: Iterator[np.ndarray],
    sample_rate: int = 16000,
    max_duration: float = 30.0,
    min_duration: float = 5.0,
    silence: float | None = -60.0,
) -> Iterator[Segment]:
    """Cut a stream into segments at pauses.

    A cut is made in the middle of the quietest third of a second that lies between ``min_duration`` and
    ``max_duration`` behind the cut before; the later one among pauses that are about as quiet. No more than that is
    held in memory.

    Args:
        blocks: samples in order, (T,) each.
        sample_rate: Hz.
        max_duration: seconds that no segment exceeds.
        min_duration: seconds that a segment has at least, but for the last.
        silence: segments that are nowhere louder than so many dB below full scale are left out; None keeps them.
    """
    longest, shortest = round(max_duration * sample_rate), round(min_duration * sample_rate)
    held: list[np.ndarray] = []
    count, done = 0, 0
    for block in blocks:
        held.append(block)
        count += len(block)
        if count <= longest:
            continue
        samples = np.concatenate(held)
        while len(samples) > longest:
            cut = quietest(samples[:longest], sample_rate, shortest)
            if not _is_silent(samples[:cut], sample_rate, silence):
                yield Segment(done / sample_rate, samples[:cut])
            samples, done = samples[cut:], done + cut
        held, count = [samples.copy()], len(samples)
    samples = np.concatenate(held) if held else np.zeros(0, dtype=np.float32)
    if len(samples) and not _is_silent(samples, sample_rate, silence):
        yield Segment(done / sample_rate, samples)


def quietest(samples: np.ndarray, sample_rate: int, earliest: int) -> int:
    """The best sample to cut at, from ``earliest`` on."""
    frame = max(1, round(_FRAME * sample_rate))
    decibels = loudness(samples, sample_rate)
    window = min(round(_PAUSE / _FRAME), len(decibels))
    smooth = np.convolve(decibels, np.full(window, 1 / window), "valid")
    first = min(earliest // frame, len(smooth) - 1)
    part = smooth[first:]
    # among places within 3 dB of the quietest, the last one: longer segments give a model more context
    place = first + int(np.flatnonzero(part <= part.min() + 3.0)[-1])
    return max(1, min(max((place + window // 2) * frame, earliest), len(samples)))


def loudness(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Decibels below full scale of each 10 ms."""
    frame = max(1, round(_FRAME * sample_rate))
    count = max(1, len(samples) // frame)
    padded = samples[: count * frame] if len(samples) >= frame else np.pad(samples, (0, frame - len(samples)))
    power = np.square(padded.reshape(count, frame), dtype=np.float64).mean(axis=1)
    return 10 * np.log10(power + 1e-10)


def _is_silent(samples: np.ndarray, sample_rate: int, silence: float | None) -> bool:
    return silence is not None and bool(loudness(samples, sample_rate).max() < silence)

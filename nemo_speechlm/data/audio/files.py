"""Read speech: any format that libsndfile knows, as one channel, resampled."""

import os
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import shown

AUDIO_SUFFIXES = frozenset((".wav", ".flac", ".mp3", ".opus", ".ogg", ".oga", ".aif", ".aiff", ".au", ".sph", ".w64"))
"""File name endings taken for audio when a folder is searched."""

Channel = int | str
"""A channel counted from 0, or ``"mix"`` for the mean of all."""


def check_channel(channel: object) -> None:
    """Raise InputError unless it is a :data:`Channel`."""
    if channel != "mix" and (not isinstance(channel, int) or isinstance(channel, bool) or channel < 0):
        raise InputError(f"channel is {channel!r}, expected 0, 1, ... or mix")


_MP3_WHOLE = 120
"""Seconds; an MP3 up to this long is decoded whole and then cut. After a jump, even to where it is, its decoder lacks
the bits that earlier frames lent to later ones, complains on stderr, and may get the next milliseconds wrong."""

_READ_IN_BLOCKS = (b"fLaC", b"RIFF", b"OggS")
"""What files begin with that libsndfile reads in blocks of some size."""


class AudioInfo(NamedTuple):
    """What an audio file's header says.

    Attributes:
        sample_rate: in Hz.
        channels: their number.
        frames: samples per channel.
    """

    sample_rate: int
    channels: int
    frames: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def audio_info(path: str | Path | TarAudio, decode: bool = False) -> AudioInfo:
    """Read an audio file's length from its header, or with ``decode`` by reading all of it.

    A file whose header has no length is decoded.

    Raises:
        InputError: if the file is missing, unreadable or has no samples.
    """
    with open_audio(path) as file:
        frames = file.frames
        if decode or not 0 < frames < 2**62:  # libsndfile's word for "unknown" is the largest 64-bit number
            frames = 0
            try:
                for block in file.blocks(blocksize=1 << 18, dtype="float32", always_2d=True):
                    frames += len(block)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise InputError(f"audio cannot be read to its end: {reason_of(error)}", _where(path)) from error
        if not frames:
            raise InputError("audio with no samples", _where(path))
        return AudioInfo(file.samplerate, file.channels, frames)


def read_audio(
    path: str | Path | TarAudio | BytesIO,
    sample_rate: int = 16000,
    offset: float = 0.0,
    duration: float | None = None,
    channel: Channel = "mix",
    speed: float = 1.0,
) -> np.ndarray:
    """Read one channel of an audio file, resampled.

    Args:
        path: WAV, FLAC, MP3, Opus, Ogg Vorbis or whatever else libsndfile reads; a file, one in a tar, or the
            content of one.
        sample_rate: that of the result, in Hz.
        offset: where to begin, in seconds.
        duration: seconds to read; None reads to the end.
        channel: which one, counted from 0, or ``"mix"`` for the mean of all.
        speed: how many times as fast, and as high, the result sounds.

    Returns:
        Samples between -1 and 1, shape (T,), float32.

    Raises:
        InputError: if the file is missing or unreadable, has no samples in the span, or no such channel.
    """
    where = _where(path)
    with open_audio(path) as file:
        rate, channels = file.samplerate, file.channels
        if channel != "mix" and not (isinstance(channel, int) and 0 <= channel < channels):
            raise InputError(
                f"no channel {channel!r}; it has {channels}, counted from 0, or 'mix' for their mean", where
            )
        try:
            start = round(offset * rate)
            if start and start >= file.frames:
                raise InputError(f"offset {offset} s is beyond its end at {file.frames / rate:.3f} s", where)
            count = -1 if duration is None else round(duration * rate)
            if file.format == "MP3" and file.frames <= _MP3_WHOLE * rate:
                samples = file.read(dtype="float32", always_2d=True)[start:]
                samples = samples if duration is None else samples[:count]
            else:
                if start:
                    file.seek(start)
                samples = file.read(count, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise InputError(f"audio cannot be read: {reason_of(error)}", where) from error
    if not len(samples):
        raise InputError("audio with no samples", where)
    if channel == "mix":
        mono = samples.mean(axis=1) if channels > 1 else samples[:, 0]
    else:
        mono = samples[:, int(channel)]
    check_samples(mono, where)
    if rate * speed != sample_rate:
        mono = soxr.resample(mono, rate * speed, sample_rate)
    return np.ascontiguousarray(mono, dtype=np.float32)


def check_samples(samples: np.ndarray, path: str | Path | None = None) -> None:
    """Check that samples (T,) float32 can be computed with.

    Raises:
        InputError: if some are not finite, or so large that the sum of their squares is not: what a file's scale does
            to each loss and gradient then.
    """
    # The sum is finite only if all samples are, and faster than looking at each.
    with np.errstate(over="ignore"):
        if np.isfinite(np.dot(samples, samples)):
            return
    if not np.isfinite(samples).all():
        raise InputError("audio has samples that are not numbers", path)
    raise InputError(
        f"audio has samples as large as {np.abs(samples).max():.3g}; they are expected between -1 and 1", path
    )


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples between -1 and 1 as 16-bit integers, clipped."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _where(path: str | Path | TarAudio | BytesIO) -> str | Path | None:
    """The file that messages name."""
    return None if isinstance(path, BytesIO) else str(path) if isinstance(path, TarAudio) else path


def open_audio(path: str | Path | TarAudio | BytesIO) -> soundfile.SoundFile:
    """Open an audio file, one in a tar, or the content of one.

    Raises:
        InputError: if it is missing, empty, or not audio that libsndfile reads.
    """
    try:
        content = path.content() if isinstance(path, TarAudio) else path
        return _open_content(content) if isinstance(content, BytesIO) else soundfile.SoundFile(content)
    except UnicodeEncodeError as error:
        raise InputError("its name is not UTF-8, which libsndfile wants; rename it", shown(str(path))) from error
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        reason = f"not audio that can be read: {reason_of(error)}"
        if isinstance(path, BytesIO):
            raise InputError(reason) from error
        if isinstance(path, TarAudio):
            raise InputError(reason, _where(path)) from error
        if not Path(path).is_file():
            reason = "no such audio file"
        elif not Path(path).stat().st_size:
            reason = "audio with no samples: the file is empty"
        raise InputError(reason, path) from error


def _open_content(content: BytesIO) -> soundfile.SoundFile:
    """Open the content of an audio file.

    libsndfile's decoder of MP3 asks for some 50 bytes at a time. From an object of Python that takes an eighth longer
    than from a file, so it gets a file, in memory.
    """
    data = content.getvalue()  # which copies nothing
    if data.startswith(_READ_IN_BLOCKS) or not hasattr(os, "memfd_create"):
        return soundfile.SoundFile(content)
    with open(os.memfd_create("audio"), "wb") as file:
        file.write(data)
        file.flush()
        return soundfile.SoundFile(f"/proc/self/fd/{file.fileno()}")


def reason_of(error: Exception) -> str:
    """The reason in a decoder's error."""
    said = str(getattr(error, "error_string", error)).rstrip(".")
    return said or f"libsndfile's error {getattr(error, 'code', '')}"  # it has no words for damaged FLAC

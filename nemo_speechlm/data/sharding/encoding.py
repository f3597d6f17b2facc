"""The audio of a manifest line as a file for a shard: copied, or cut out and encoded."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from nemo_speechlm.checks import check_choice, check_whole
from nemo_speechlm.data.audio.files import (
    Channel,
    check_channel,
    check_samples,
    open_audio,
    read_audio,
    reason_of,
    to_int16,
)
from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.data.audio.utterances import check_duration, seconds_of
from nemo_speechlm.data.sharding.ogg import with_serial
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record

FORMATS = ("flac", "opus", "keep")
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)


class Encoded(NamedTuple):
    """The audio of an utterance.

    Attributes:
        content: of a file.
        suffix: of the file's name.
        duration: seconds.
    """

    content: bytes
    suffix: str
    duration: float


@dataclass(frozen=True)
class AudioEncoding:
    """How audio goes into shards.

    A whole file that has the format already is copied byte by byte.

    Attributes:
        format: ``flac`` (16 bits, lossless), ``opus``, or ``keep``: files are copied as they are; what is cut out of
            one becomes FLAC.
        sample_rate: in Hz, to which other audio is resampled; None leaves it (Opus has five rates of its own).
        channel: of files with several: one, or ``mix``. ``keep`` with ``mix`` copies all channels.
        check: decode what is copied, so that damaged audio is found now.
    """

    format: str = "flac"
    sample_rate: int | None = None
    channel: Channel = "mix"
    check: bool = True

    def __post_init__(self) -> None:
        check_choice("audio_format", self.format, FORMATS)
        check_channel(self.channel)
        if self.sample_rate is not None:
            check_whole("sample_rate", self.sample_rate, 1)
            if self.format == "opus" and self.sample_rate not in _OPUS_RATES:
                raise InputError(f"sample_rate is {self.sample_rate}, Opus has {', '.join(map(str, _OPUS_RATES))} Hz")

    def encoded(self, record: Record, manifest: str | Path, number: int) -> Encoded:
        """The audio of a record.

        Args:
            record: line ``number`` of ``manifest``.
            manifest: for relative paths, and for messages.
            number: its line number.

        Raises:
            InputError: naming the manifest and line, if the audio cannot be read to its end, or does not last as long
                as the line says.
        """
        path = audio_source(record, manifest, number)
        offset, duration = (seconds_of(record, key, manifest, number) for key in ("offset", "duration"))
        try:
            found = self._of_file(path, offset, duration)
        except InputError as error:
            where = "" if error.path else f"{path}: "
            raise InputError(f"{where}{error}", manifest, number) from error
        check_duration(duration, found.duration, path, manifest, number)
        return found

    def _of_file(self, path: Path | TarAudio, offset: float | None, duration: float | None) -> Encoded:
        with open_audio(path) as file:
            rate, copied = file.samplerate, offset is None and self._may_copy(file)
        if copied:
            content = path.read_bytes() if isinstance(path, Path) else path.content().getvalue()
            return Encoded(content, Path(str(path)).suffix.lower(), self._seconds(content))
        rate = self.sample_rate or (_opus_rate(rate) if self.format == "opus" else rate)
        samples = read_audio(path, rate, offset or 0.0, None if offset is None else duration, self.channel)
        return Encoded(*self._encode(samples, rate), len(samples) / rate)

    def _may_copy(self, file: soundfile.SoundFile) -> bool:
        """Whether a file has the format that is wanted."""
        if self.sample_rate not in (None, file.samplerate):
            return False
        if self.format == "keep":
            return file.channels == 1 or self.channel == "mix"
        return file.channels == 1 and self.format == {"FLAC": "flac", "OGG": file.subtype.lower()}.get(file.format)

    def _seconds(self, content: bytes) -> float:
        """How long audio lasts: as its samples say, or as its header does."""
        with open_audio(BytesIO(content)) as file:
            frames = file.frames
            if self.check or not 0 < frames < 2**62:  # libsndfile's word for "unknown"
                frames = 0
                try:
                    for block in file.blocks(blocksize=1 << 18, dtype="float32", always_2d=True):
                        check_samples(np.ascontiguousarray(block).reshape(-1))
                        frames += len(block)
                except (soundfile.SoundFileError, RuntimeError) as error:
                    raise InputError(f"audio cannot be read to its end: {reason_of(error)}") from error
                if file.format == "FLAC" and 0 < file.frames < 2**62 and frames != file.frames:
                    raise InputError(f"audio ends after {frames} samples, its header says {file.frames}")
            if not frames:
                raise InputError("audio with no samples")
            return frames / file.samplerate

    def _encode(self, samples: np.ndarray, rate: int) -> tuple[bytes, str]:
        """Samples (T,) float32 as the content of a file, and its suffix; equal samples make equal files."""
        file = BytesIO()
        if self.format == "opus":
            soundfile.write(file, samples, rate, format="OGG", subtype="OPUS")
            return with_serial(file.getvalue()), ".opus"
        soundfile.write(file, to_int16(samples), rate, format="FLAC", subtype="PCM_16")
        return file.getvalue(), ".flac"


def _opus_rate(rate: int) -> int:
    """The rate of Opus that loses nothing of audio at another rate."""
    return next((each for each in _OPUS_RATES if each >= rate), _OPUS_RATES[-1])

"""The samples and the units of a cut, cut together."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import AudioSource, Recording
from lhotse.cut import Cut, MixedCut, MonoCut
from lhotse.utils import fastcopy

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.manifests.units import FRAME_TOLERANCE, unit_sequence
from nemo_speechlm.errors import InputError
from nemo_speechlm.units.inventory import UnitInventory

_TARRED_TOLERANCE = 0.25
"""Seconds; NeMo lets the audio in a tar differ from its manifest by 0.2 because codecs pad."""

_SHORTER = 0.05
"""Seconds by which audio without units may be shorter than its manifest says."""


def audio_of(cut: Cut, sample_rate: int) -> np.ndarray:
    """Samples (S,) of a cut, for streams without units.

    Raises:
        InputError: with manifest and line, if the audio cannot be read or is shorter than the manifest says.
    """
    base, path, line = _place(cut)
    audio = _read(cut, base, base.start, sample_rate, path, line)
    missing = base.duration - len(audio) / sample_rate
    if missing > _SHORTER:
        raise InputError(f"{base.recording.id} has {missing:.2f} s less audio than its duration", path, line)
    return audio


def audio_and_units(cut: Cut, inventory: UnitInventory, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples (S,) and units (L,), one per frame, of a cut whose ``custom`` has ``units`` and ``unit_durations``.

    The cut's start is moved to the nearest border of two unit frames. Frame ``k`` of the units belongs to samples
    ``[k, k + 1) * sample_rate / frame_rate`` of the audio, which ends within the last frame.

    Raises:
        InputError: with manifest and line, if there are no units, or they do not fit the audio.
    """
    base, path, line = _place(cut)
    custom = base.custom or {}
    if "units" not in custom:
        raise InputError("no units; tokenize the manifest first", path, line)
    rate = inventory.frame_rate
    origin = custom.get("origin", 0.0)
    first = round((base.start - origin) * rate)
    frames = _frames(base, inventory, path, line)[first:]
    audio = _read(cut, base, origin + first / rate, sample_rate, path, line)
    samples_per_frame = sample_rate / rate
    missing = base.duration - len(audio) / sample_rate
    if missing * rate > FRAME_TOLERANCE + 1:
        raise InputError(f"{base.recording.id} has {missing:.2f} s less audio than its duration", path, line)
    frames = frames[: int(np.ceil((len(audio) - 0.5) / samples_per_frame))]  # frames may not be whole samples
    return audio[: round(len(frames) * samples_per_frame)], frames


def check_regular(path: str) -> None:
    """Raise for what is there but is no file: to open a pipe would wait for somebody to write to it."""
    file = Path(path)
    if not file.is_file() and file.exists():
        raise InputError("is not a regular file", path)


def base_of(cut: Cut) -> Cut:
    """The cut without what augmentation mixed into it; its ``custom`` is that of the manifest's line."""
    return cut.tracks[0].cut if isinstance(cut, MixedCut) else cut


def name_of(example: Any) -> str:
    """Where an example stands in its manifest, or its id; of a cut with noise, whose ids NeMo draws, the audio's."""
    base = base_of(example)
    custom = getattr(base, "custom", None) or {}
    if "manifest" in custom and "line" in custom:
        return f"{custom['manifest']}:{custom['line']}"
    recording = getattr(base, "recording", None)
    return str(recording.id if recording is not None and isinstance(example, MixedCut) else base.id)


def _place(cut: Cut) -> tuple[Cut, str, int | None]:
    """The cut without what augmentation added, and where it came from."""
    base = base_of(cut)
    custom = base.custom or {}
    return base, custom.get("manifest", custom.get("manifest_origin", name_of(cut))), custom.get("line")


def _frames(cut: Cut, inventory: UnitInventory, path: str, line: int | None) -> np.ndarray:
    ids, durations = cut.custom["units"], cut.custom.get("unit_durations")
    if not isinstance(ids, np.ndarray):  # of a type of NeMo's own, which nothing has checked so far
        ids, durations = unit_sequence(cut.custom, inventory, path, line or 0)
        seconds = sum(durations) / inventory.frame_rate
        if abs(seconds - cut.recording.duration) > _TARRED_TOLERANCE:
            raise InputError(
                f"units of {cut.id} last {seconds:.2f} s at {inventory.frame_rate:g} frames per second, its "
                f"audio {cut.recording.duration:.2f} s; were they made at another frame rate?",
                path,
                line,
            )
    return np.repeat(np.asarray(ids, dtype=np.int64), durations)


def _read(cut: Cut, base: Cut, start: float, sample_rate: int, path: str, line: int | None) -> np.ndarray:
    """Samples of ``base`` from ``start`` (seconds into its file), with the augmentations that ``cut`` adds."""
    try:
        return _augmented(cut, base, start, sample_rate)
    except InputError as error:
        raise InputError(str(error), path, line) from error


def _augmented(cut: Cut, base: Cut, start: float, sample_rate: int) -> np.ndarray:
    recording = base.recording
    source = recording.sources[0]
    if source.type not in ("file", "memory"):
        raise InputError(f"{recording.id} is of the type {source.type!r}, expected a file or a member of a tar")
    file: Any = io.BytesIO(source.source) if source.type == "memory" else source.source
    if (place := (base.custom or {}).get("tar")) is not None:
        file = place.content()
    if isinstance(file, str):
        check_regular(file)
    custom = base.custom or {}
    speed = custom.get("speed", 1.0)
    channel = custom.get("channel", "mix")
    audio = read_audio(file, sample_rate, start * speed, base.duration * speed, channel, speed)
    if "volume" in custom:
        audio = audio * np.float32(custom["volume"])
    transforms = recording.transforms or []
    if transforms and _is_to_rate(transforms[0], sample_rate):
        transforms = transforms[1:]  # done by read_audio
    if cut is base and not transforms:
        return audio
    loaded = _in_memory(base, audio, sample_rate, transforms)
    if cut is base:
        return loaded.load_audio()[0]
    tracks = [fastcopy(cut.tracks[0], cut=loaded), *cut.tracks[1:]]
    return fastcopy(cut, tracks=tracks).load_audio()[0][: len(audio)]


def _is_to_rate(transform: Any, sample_rate: int) -> bool:
    target = transform.get("kwargs", {}) if isinstance(transform, dict) else vars(transform)
    return target.get("target_sampling_rate") == sample_rate and target.get("source_sampling_rate") != sample_rate


def _in_memory(cut: Cut, audio: np.ndarray, sample_rate: int, transforms: list[Any]) -> MonoCut:
    """A cut of audio that is there already, so that Lhotse's augmentations need no other way to read files."""
    content = io.BytesIO()
    soundfile.write(content, audio, sample_rate, format="WAV", subtype="FLOAT")
    recording = Recording(
        id=cut.recording.id,
        sources=[AudioSource("memory", [0], content.getvalue())],
        sampling_rate=sample_rate,
        num_samples=len(audio),
        duration=len(audio) / sample_rate,
        transforms=transforms or None,
    )
    return MonoCut(id=cut.id, start=0.0, duration=recording.duration, channel=0, recording=recording)

"""The samples and the units of a cut, cut together."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import AudioSource, Recording
from lhotse.cut import Cut, MixedCut, MonoCut
from lhotse.utils import fastcopy

from nemo_speechlm.data.audio.files import check_samples, read_audio
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
    if not _is_plain(cut, sample_rate):
        return _decoded_by_lhotse(cut, sample_rate)
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
    if _is_plain(cut, sample_rate):
        audio = _read(cut, base, origin + first / rate, sample_rate, path, line)
    else:
        audio = _decoded_by_lhotse(_beginning_at(cut, origin + first / rate, path, line), sample_rate)
    samples_per_frame = sample_rate / rate
    missing = base.duration - len(audio) / sample_rate
    if missing * rate > FRAME_TOLERANCE + 1:
        raise InputError(f"{base.recording.id} has {missing:.2f} s less audio than its duration", path, line)
    frames = frames[: int(np.ceil((len(audio) - 0.5) / samples_per_frame))]  # frames may not be whole samples
    return audio[: round(len(frames) * samples_per_frame)], frames


def _is_plain(cut: Cut, sample_rate: int) -> bool:
    """Whether a reader of ours made the cut, or Lhotse would read one file of one channel as it is."""
    custom = getattr(base_of(cut), "custom", None) or {}
    if "manifest" in custom and "line" in custom:
        return True
    if not isinstance(cut, MonoCut) or len(cut.recording.sources) != 1 or cut.recording.num_channels != 1:
        return False
    changes = [change for change in cut.recording.transforms or [] if not _is_to_rate(change, sample_rate)]
    return not changes and cut.recording.sources[0].type in ("file", "memory")


def _decoded_by_lhotse(cut: Cut, sample_rate: int) -> np.ndarray:
    """Samples (S,) of a cut of NeMo's own data types: all that it says of channels, files, transforms and tracks.

    Channels are averaged where the cut has several.

    Raises:
        InputError: with its file or id, if it cannot be decoded or holds no samples.
    """
    source = next(files_of(base_of(cut)), name_of(cut))
    for path in files_of(base_of(cut)):
        check_regular(path)
    try:
        samples = np.atleast_2d(cut.resample(sample_rate).load_audio())
    except Exception as error:  # each decoder has its own
        raise InputError(f"audio cannot be decoded: {error}", source) from error
    if not samples.size:
        raise InputError("audio holds no samples", source)
    mono = samples.mean(axis=0, dtype=np.float32)
    check_samples(mono, source)
    return mono


def files_of(cut: Cut) -> Iterator[str]:
    """The files of a cut's recording; none where it is in memory."""
    sources: Iterable[Any] = getattr(getattr(cut, "recording", None), "sources", ()) or ()
    return (str(source.source) for source in sources if source.type == "file")


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


def _beginning_at(cut: Cut, start: float, path: str, line: int | None) -> Cut:
    """A cut of NeMo's own types whose units belong to its whole recording, begun elsewhere in it.

    Raises:
        InputError: if its units cannot be those of its audio.
    """
    base = base_of(cut)
    kinds = [t.get("name") if isinstance(t, dict) else type(t).__name__ for t in base.recording.transforms or []]
    if other := sorted({"Speed", "Tempo"} & set(kinds)):
        raise InputError(f"{cut.id} is changed by {other[0]}, and its units are those of another speed", path, line)
    if isinstance(cut, MixedCut) and (cut.tracks[0].offset or cut.duration > base.duration + _SHORTER):
        raise InputError(f"{cut.id} is made of several utterances, and its units are those of the first", path, line)
    moved = fastcopy(base, start=start, duration=min(base.duration, base.recording.duration - start))
    if not isinstance(cut, MixedCut):
        return moved
    return fastcopy(cut, tracks=[fastcopy(cut.tracks[0], cut=moved), *cut.tracks[1:]])


def _read(cut: Cut, base: Cut, start: float, sample_rate: int, path: str, line: int | None) -> np.ndarray:
    """Samples of ``base`` from ``start`` (seconds into its file), with the augmentations that ``cut`` adds."""
    try:
        return _augmented(cut, base, start, sample_rate)
    except InputError as error:
        raise InputError(str(error), path, line) from error


def _augmented(cut: Cut, base: Cut, start: float, sample_rate: int) -> np.ndarray:
    recording, custom = base.recording, base.custom or {}
    source = recording.sources[0]
    file: Any = io.BytesIO(source.source) if source.type == "memory" else source.source
    if (place := custom.get("tar")) is not None:
        file = place.content()
    if isinstance(file, str):
        check_regular(file)
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

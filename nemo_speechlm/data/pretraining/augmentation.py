"""Noise and reverberation, which NeMo's loaders add to speech: what is wrong with them is said before training."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lhotse import RecordingSet

from nemo_speechlm.checks import check_number, check_range
from nemo_speechlm.data.manifests.lines import audio_path, read_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import iter_lines

_KEYS = ("noise_path", "rir_enabled", "rir_path")
_LHOTSES = (".jsonl", ".jsonl.gz", ".yaml")
"""Endings that NeMo does not take for a manifest of its own."""


def check_augmentation(part: Mapping[str, Any], name: str, has_audio: bool) -> None:
    """Check the keys for noise (``noise_*``) and reverberation (``rir_*``) of a stream's data config.

    Raises:
        InputError: if a value is wrong, a file is not there, or reverberation cannot be made here.
    """
    given = [key for key in _KEYS if part.get(key)]
    if given and not has_audio:
        raise InputError(f"data config: {name}.{given[0]} cannot be used, {name} has no audio")
    for key in ("noise_mix_prob", "rir_prob"):
        if part.get(key) is not None:
            check_number(f"data config: {name}.{key}", part[key], 0, 1)
    if (snr := part.get("noise_snr")) is not None:
        check_range(f"data config: {name}.noise_snr", snr, -100, 100, "number", "[10, 20] dB")
    if part.get("noise_path"):
        _check_noise(part["noise_path"], f"{name}.noise_path")
    if part.get("rir_path") and not part.get("rir_enabled"):
        raise InputError(f"data config: {name}.rir_path has no effect without {name}.rir_enabled=true")
    if part.get("rir_enabled"):
        _check_rooms(part.get("rir_path"), name)


def _check_noise(noise: Any, key: str) -> None:
    if not isinstance(noise, str):  # a config of its own, which NeMo reads
        return
    if not Path(noise).is_file():
        raise InputError(f"data config: {key}: no such file", noise)
    if noise.endswith(_LHOTSES):
        if noise.endswith(".jsonl"):
            _refuse_own_manifest(noise, key)
        return
    for number, record in read_manifest(noise, ["audio_filepath", "duration"]):
        file = audio_path(record, noise)
        if not file.is_file():
            raise InputError(f"no audio file {file}", noise, number)


def _refuse_own_manifest(noise: str, key: str) -> None:
    _, first = next(iter_lines(noise), (0, ""))
    if first.startswith("{") and "audio_filepath" in first:
        raise InputError(
            f"data config: {key}: a manifest with audio_filepath whose name ends in .jsonl, which are cuts of Lhotse; "
            "name it .json",
            noise,
        )


def _check_rooms(rooms: Any, name: str) -> None:
    if not rooms:
        if find_spec("torchaudio") is None:
            raise InputError(
                f"data config: {name}.rir_enabled without {name}.rir_path draws rooms, and needs torchaudio for that; "
                f"give {name}.rir_path=recordings.jsonl.gz, impulse responses as a Lhotse manifest of recordings"
            )
        return
    if not Path(rooms).is_file():
        raise InputError(f"data config: {name}.rir_path: no such file", str(rooms))
    try:
        recordings = RecordingSet.from_file(rooms)
        count = sum(1 for _ in recordings)
    except Exception as error:  # whatever Lhotse meets in what is no manifest of its own
        raise InputError("is not a Lhotse manifest of recordings", str(rooms)) from error
    if not count:
        raise InputError("the manifest is empty", str(rooms))

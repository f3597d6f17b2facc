"""From sampled examples to the tensors of a pretraining step.

Axis legend: B utterances or sentences, S samples, L unit frames, U characters.
"""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import soundfile
import torch
from lhotse import AudioSource, Recording
from lhotse.cut import Cut, MixedCut, MonoCut
from lhotse.utils import fastcopy
from torch import Tensor

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.manifests.units import FRAME_TOLERANCE, unit_sequence
from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.data.pretraining.text_reader import TextUnits
from nemo_speechlm.errors import InputError
from nemo_speechlm.units.inventory import UnitInventory

_TARRED_TOLERANCE = 0.25
"""Seconds; NeMo lets the audio in a tar differ from its manifest by 0.2 because codecs pad."""


class SpeechLMPretrainDataset(torch.utils.data.Dataset):
    """A map from Lhotse cuts and :class:`TextUnits` to a :class:`PretrainBatch`; it holds no data itself.

    A cut is any whose ``custom`` has ``units`` and ``unit_durations``, so NeMo's tarred data work as well as
    ``speech_units``. Its audio and units are cut together: its start is moved to the nearest border of two unit
    frames, and frame ``k`` of its units belongs to samples ``[k, k + 1) * sample_rate / frame_rate`` of its audio. The
    audio ends within the last frame.

    Args:
        inventory: the units.
        sample_rate: of the audio in batches; files of other rates are resampled, channels are averaged.
    """

    def __init__(self, inventory: UnitInventory, sample_rate: int = 16000):
        self.inventory = inventory
        self.sample_rate = sample_rate

    def __getitem__(self, examples: Iterable[Cut | TextUnits]) -> PretrainBatch:
        examples = list(examples)
        cuts = [example for example in examples if isinstance(example, Cut)]
        sentences = [example for example in examples if isinstance(example, TextUnits)]
        return PretrainBatch(
            speech=self._speech(cuts) if cuts else None,
            text=self._text(sentences) if sentences else None,
        )

    def _speech(self, cuts: Sequence[Cut]) -> SpeechBatch:
        audios, units = zip(*(self._utterance(cut) for cut in cuts), strict=True)
        audio, audio_lengths = _pad(audios, torch.float32, 0.0)
        padded_units, unit_lengths = _pad(units, torch.int64, PAD_UNIT)
        return SpeechBatch(audio, audio_lengths, padded_units, unit_lengths, tuple(cut.id for cut in cuts))

    def _utterance(self, cut: Cut) -> tuple[np.ndarray, np.ndarray]:
        """Samples and units (one per frame) of a cut."""
        base = cut.tracks[0].cut if isinstance(cut, MixedCut) else cut
        custom = base.custom or {}
        path, line = custom.get("manifest", custom.get("manifest_origin", base.id)), custom.get("line")
        if "units" not in custom:
            raise InputError("no units; tokenize the manifest first", path, line)
        rate = self.inventory.frame_rate
        origin = custom.get("origin", 0.0)
        first = round((base.start - origin) * rate)
        frames = self._frames(base, path, line)[first:]
        try:
            audio = self._audio(cut, base, origin + first / rate)
        except InputError as error:
            raise InputError(str(error), path, line) from error
        samples_per_frame = self.sample_rate / rate
        missing = base.duration - len(audio) / self.sample_rate
        if missing * rate > FRAME_TOLERANCE + 1:
            raise InputError(f"{base.recording.id} has {missing:.2f} s less audio than its duration", path, line)
        frames = frames[: int(np.ceil((len(audio) - 0.5) / samples_per_frame))]  # frames may not be whole samples
        return audio[: round(len(frames) * samples_per_frame)], frames

    def _frames(self, cut: Cut, path: str, line: int | None) -> np.ndarray:
        ids, durations = cut.custom["units"], cut.custom.get("unit_durations")
        if not isinstance(ids, np.ndarray):  # of a type of NeMo's own, which nothing has checked so far
            ids, durations = unit_sequence(cut.custom, self.inventory, path, line or 0)
            seconds = sum(durations) / self.inventory.frame_rate
            if abs(seconds - cut.recording.duration) > _TARRED_TOLERANCE:
                raise InputError(
                    f"units of {cut.id} last {seconds:.2f} s at {self.inventory.frame_rate:g} frames per second, its "
                    f"audio {cut.recording.duration:.2f} s; were they made at another frame rate?",
                    path,
                    line,
                )
        return np.repeat(np.asarray(ids, dtype=np.int64), durations)

    def _audio(self, cut: Cut, base: Cut, start: float) -> np.ndarray:
        """Samples of ``base`` from ``start`` (seconds into its file), with the augmentations that ``cut`` adds."""
        recording = base.recording
        source = recording.sources[0]
        if source.type not in ("file", "memory"):
            raise InputError(f"{recording.id} is of the type {source.type!r}, expected a file or a member of a tar")
        file = io.BytesIO(source.source) if source.type == "memory" else source.source
        audio = read_audio(file, self.sample_rate, start, base.duration)
        transforms = recording.transforms or []
        if transforms and _is_to_rate(transforms[0], self.sample_rate):
            transforms = transforms[1:]  # done by read_audio
        if cut is base and not transforms:
            return audio
        loaded = _in_memory(base, audio, self.sample_rate, transforms)
        if cut is base:
            return loaded.load_audio()[0]
        tracks = [fastcopy(cut.tracks[0], cut=loaded), *cut.tracks[1:]]
        return fastcopy(cut, tracks=tracks).load_audio()[0][: len(audio)]

    def _text(self, sentences: Sequence[TextUnits]) -> TextBatch:
        expanded = [np.repeat(sentence.units, sentence.durations) for sentence in sentences]
        units, unit_lengths = _pad(expanded, torch.int64, PAD_UNIT)
        targets, target_lengths = _pad([sentence.targets for sentence in sentences], torch.int64, 0)
        ids = tuple(sentence.id for sentence in sentences)
        return TextBatch(units, unit_lengths, targets, target_lengths, ids)


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


def _pad(rows: Sequence[np.ndarray], dtype: torch.dtype, value: float) -> tuple[Tensor, Tensor]:
    """Stack (N,) arrays to (B, max N) with ``value`` behind their ends; returns their lengths (B,) too."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    padded = torch.empty((len(rows), int(lengths.max())), dtype=dtype)
    for place, row in zip(padded.numpy(), rows, strict=True):
        place[: len(row)] = row
        place[len(row) :] = value
    return padded, lengths

"""From sampled examples to the tensors of a pretraining step.

Axis legend: B utterances or sentences, S samples, L unit frames, U characters.
"""

import io
from collections.abc import Iterable, Sequence

import numpy as np
import soundfile
import soxr
import torch
from lhotse.cut import Cut, MonoCut
from torch import Tensor

from nemo_speechlm.data.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.data.lhotse_readers import TextUnits, ctc_frames
from nemo_speechlm.data.manifest import FRAME_TOLERANCE, unit_sequence
from nemo_speechlm.errors import InputError
from nemo_speechlm.tokenizers.durations import DurationSampler
from nemo_speechlm.tokenizers.units import UnitInventory

_REDRAWS = 4


class SpeechLMPretrainDataset(torch.utils.data.Dataset):
    """A map from Lhotse cuts and :class:`TextUnits` to a :class:`PretrainBatch`; it holds no data itself.

    A cut is any whose ``custom`` has ``units`` and ``unit_durations``, so NeMo's tarred data work as well as
    ``speech_units``. Its audio and units are cut together: its start is moved to the nearest border of two unit
    frames, and frame ``k`` of its units belongs to samples ``[k, k + 1) * sample_rate / frame_rate`` of its audio. The
    audio ends within the last frame.

    Args:
        inventory: the units; its duration statistics expand text that has no durations.
        text_frame_rate: frames per second that text is expanded to.
        sample_rate: of the audio in batches; files of other rates are resampled, channels are averaged.
    """

    def __init__(self, inventory: UnitInventory, text_frame_rate: float, sample_rate: int = 16000):
        self.inventory = inventory
        self.sample_rate = sample_rate
        self.scale = text_frame_rate / inventory.frame_rate
        self._sampler: DurationSampler | None = None

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
        return SpeechBatch(audio, audio_lengths, padded_units, unit_lengths)

    def _utterance(self, cut: Cut) -> tuple[np.ndarray, np.ndarray]:
        """Samples and units (one per frame) of a cut."""
        custom = cut.custom or {}
        path, line = custom.get("manifest", cut.id), custom.get("line")
        if "units" not in custom:
            raise InputError("no units; tokenize the manifest first", path, line)
        rate = self.inventory.frame_rate
        frames = self._frames(custom, path, line)
        first = round((cut.start - custom.get("origin", 0.0)) * rate)
        start = custom.get("origin", 0.0) + first / rate
        audio = self._read(cut, start, round(cut.duration * self.sample_rate), path, line)
        samples_per_frame = self.sample_rate / rate
        frames = frames[first : first + int(np.ceil(len(audio) / samples_per_frame - 1e-6))]
        return audio[: round(len(frames) * samples_per_frame)], frames

    def _frames(self, custom: dict, path: str, line: int | None) -> np.ndarray:
        ids, durations = custom["units"], custom.get("unit_durations")
        if not isinstance(ids, np.ndarray):  # a manifest of NeMo's own types, which nothing has checked so far
            ids, durations = unit_sequence(custom, self.inventory, path, line or 0)
        return np.repeat(np.asarray(ids, dtype=np.int64), durations)

    def _read(self, cut: Cut, start: float, num_samples: int, path: str, line: int | None) -> np.ndarray:
        if not isinstance(cut, MonoCut) or cut.recording.transforms:
            return cut.load_audio()[0]
        source = cut.recording.sources[0]
        file = io.BytesIO(source.source) if source.type == "memory" else source.source
        try:
            with soundfile.SoundFile(file) as sound:
                rate = sound.samplerate
                sound.seek(min(int(start * rate), sound.frames))
                audio = sound.read(int(np.ceil(num_samples / self.sample_rate * rate)), "float32", always_2d=True)
        except (soundfile.LibsndfileError, OSError) as error:
            raise InputError(f"cannot read the audio of {cut.recording.id}: {error}", path, line) from error
        mono = audio.mean(1)
        if rate != self.sample_rate:
            mono = soxr.resample(mono, rate, self.sample_rate)
        missing = num_samples - len(mono)
        if missing > FRAME_TOLERANCE * self.sample_rate / self.inventory.frame_rate:
            raise InputError(
                f"{cut.recording.id} has {missing / self.sample_rate:.2f} s less audio than its manifest says",
                path,
                line,
            )
        return mono[:num_samples]

    def _text(self, sentences: Sequence[TextUnits]) -> TextBatch:
        units, unit_lengths = _pad([self._expand(sentence) for sentence in sentences], torch.int64, PAD_UNIT)
        targets, target_lengths = _pad([sentence.targets for sentence in sentences], torch.int64, 0)
        return TextBatch(units, unit_lengths, targets, target_lengths)

    def _expand(self, sentence: TextUnits) -> np.ndarray:
        durations = sentence.durations
        return np.repeat(sentence.units, self._draw(sentence) if durations is None else durations)

    def _draw(self, sentence: TextUnits) -> np.ndarray:
        """Durations with which CTC can spell the sentence: drawn again if too short, lengthened if that fails."""
        if self._sampler is None:
            self._sampler = DurationSampler(self.inventory)
        rng = np.random.default_rng(sentence.draw)
        needed = ctc_frames(sentence.targets)
        for _ in range(_REDRAWS):
            durations = np.asarray(self._sampler.draw(sentence.units, rng, self.scale))
            if durations.sum() >= needed:
                return durations
        np.add.at(durations, rng.integers(len(durations), size=needed - int(durations.sum())), 1)
        return durations


def _pad(rows: Sequence[np.ndarray], dtype: torch.dtype, value: float) -> tuple[Tensor, Tensor]:
    """Stack (N,) arrays to (B, max N) with ``value`` behind their ends; returns their lengths (B,) too."""
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    padded = torch.full((len(rows), int(lengths.max())), value, dtype=dtype)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = torch.from_numpy(np.ascontiguousarray(row))
    return padded, lengths

"""A recording to all that the page shows of it: text, words in time, units, a spectrogram."""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nemo.core.classes import ModelPT
from omegaconf import DictConfig

from nemo_speechlm.data.audio.files import audio_info
from nemo_speechlm.data.audio.stream import cut_at_silences, stream_audio
from nemo_speechlm.decoding.options import DecodingOptions
from nemo_speechlm.errors import InputError
from nemo_speechlm.inference.recognition import as_recognizer, longest_audio
from nemo_speechlm.inference.recognizers import Recognizer, make_recognizer
from nemo_speechlm.inference.recordings import CuttingOptions, Transcript
from nemo_speechlm.inference.search import is_translation
from nemo_speechlm.inference.units import TimedUnit, UnitFinder
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.serving.spectrogram import spectrogram


@dataclass(frozen=True)
class Listener:
    """A model with all that is needed to use it on a recording.

    Attributes:
        name: of the model, for the page.
        kind: its class.
        translates: whether its text is a translation.
        recognize: the model.
        sample_rate: its sample rate, Hz.
        units: finds units; None: there are none to show.
        cutting: how recordings are cut into segments.
        max_duration: seconds of the longest recording.
    """

    name: str
    kind: str
    translates: bool
    recognize: Recognizer
    sample_rate: int
    units: UnitFinder | None
    cutting: CuttingOptions
    max_duration: float

    @classmethod
    def of(cls, cfg: DictConfig, options: DecodingOptions) -> "Listener":
        """Restore the models of a config.

        Args:
            cfg: see ``conf/serve.yaml``.
            options: what CTC is decoded with.

        Raises:
            InputError: if ``model`` is no recognition model, or ``units`` has no units.
            SpeechLMError: naming what the model cannot do.
        """
        restored = restore_file(ModelPT, cfg.model, cfg.device)
        model = as_recognizer(restored, cfg.model)
        rate = int(model.cfg.get("sample_rate", 16000))
        units = _unit_finder(cfg, restored, rate)
        longest = longest_audio(model)
        if units is not None and cfg.units is not None:
            longest = min((x for x in (longest, units.longest) if x is not None), default=None)
        return cls(
            name=Path(str(cfg.model)).name,
            kind=type(restored).__name__,
            translates=is_translation(model),
            recognize=make_recognizer(model, cfg, options),
            sample_rate=rate,
            units=units,
            cutting=CuttingOptions.of(cfg, longest),
            max_duration=cfg.max_duration,
        )

    def listen(self, path: Path, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Recognize a recording.

        Args:
            path: audio file.
            check: called before each segment; what it raises ends the work.

        Returns:
            what the page shows, for JSON; see docs/how-to/try-a-model.md.

        Raises:
            InputError: if the audio cannot be read, or is longer than ``max_duration``.
        """
        began = time.perf_counter()
        samples = self._read(path)
        transcript = Transcript(path, len(samples) / self.sample_rate)
        units: list[TimedUnit] = []
        cutting = self.cutting
        for segment in cut_at_silences(
            iter([samples]), self.sample_rate, cutting.max_segment, cutting.min_segment, cutting.silence
        ):
            check()
            transcript.passages += self.recognize([segment], self.sample_rate)
            if self.units is not None:
                units += self.units(segment)
        check()
        picture = spectrogram(samples, self.sample_rate)
        record = transcript.record()
        return {
            "duration": record["duration"],
            "text": record["text"],
            "segments": record["segments"],
            "units": None if self.units is None else [unit._asdict() for unit in units],
            "spectrogram": {
                "bands": picture.levels.shape[0],
                "columns": picture.levels.shape[1],
                "column_seconds": picture.column,
                "top_hz": picture.top,
                "levels": base64.b64encode(picture.levels.tobytes()).decode("ascii"),
            },
            "seconds": round(time.perf_counter() - began, 3),
        }

    def about(self) -> dict[str, Any]:
        """What the page says of the model."""
        inventory = None if self.units is None else self.units.inventory
        return {
            "name": self.name,
            "kind": self.kind,
            "task": "translation" if self.translates else "recognition",
            "sample_rate": self.sample_rate,
            "max_duration": self.max_duration,
            "units": None if inventory is None else {"kind": inventory.kind, "silence": inventory.silence,
                                                     "symbols": list(inventory.symbols)},
        }  # fmt: skip

    def _read(self, path: Path) -> np.ndarray:
        """Samples (S,); no more than ``max_duration`` are ever in memory, whatever the file's header says."""
        if (seconds := audio_info(path).duration) > self.max_duration + 0.5:
            raise self._too_long(f"{seconds:.0f} s")
        most = round((self.max_duration + 0.5) * self.sample_rate)
        blocks: list[np.ndarray] = []
        count = 0
        for block in stream_audio(path, self.sample_rate, self.cutting.channel):
            blocks.append(block)
            count += len(block)
            if count > most:
                raise self._too_long("longer")
        if not blocks:  # a sample or two, at another rate
            raise InputError("audio with no samples")
        return np.concatenate(blocks)

    def _too_long(self, found: str) -> InputError:
        return InputError(f"the recording has {found}, at most {self.max_duration:g} s are taken (max_duration)")


def _unit_finder(cfg: DictConfig, restored: ModelPT, sample_rate: int) -> UnitFinder | None:
    """What finds units: the model of ``units``, or the one that recognizes, if it knows any."""
    if cfg.units is None:
        return UnitFinder(restored, cfg.precision) if isinstance(restored, SpeechLMModel) else None
    try:
        finder = UnitFinder(restore_file(ModelPT, cfg.units, cfg.device), cfg.precision)
    except InputError as error:
        raise InputError(error.reason, error.path or cfg.units) from None
    if finder.sample_rate != sample_rate:
        raise InputError(f"takes {finder.sample_rate} Hz, the model takes {sample_rate} Hz", cfg.units)
    return finder

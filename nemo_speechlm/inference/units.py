"""The units of speech as a model hears them: what a pretrained SpeechLM or a frame classifier predicts.

Axis legend: B utterances, T frames, V units.
"""

from typing import Any, NamedTuple

import torch
from nemo.core.classes import ModelPT

from nemo_speechlm.data.audio.collation import collate_audio
from nemo_speechlm.data.audio.stream import Segment
from nemo_speechlm.errors import InputError
from nemo_speechlm.models.common.limits import longest_audio
from nemo_speechlm.models.common.precision import autocast
from nemo_speechlm.models.frame_classifier.model import FrameClassifierModel
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.sequence import UnitSequence


class TimedUnit(NamedTuple):
    """A unit in time.

    Attributes:
        symbol: of the inventory.
        start: seconds from the beginning of the recording.
        end: seconds.
    """

    symbol: str
    start: float
    end: float


class UnitFinder:
    """Finds the units of segments.

    A pretrained SpeechLM says, for each frame of unmasked speech, the most likely unit at its shared transformer
    (section 3.3). A frame classifier decodes as it does in ``tokenize_speech.py``.

    Args:
        model: one of these two.
        precision: of the model.

    Raises:
        InputError: if the model is of another kind.
    """

    def __init__(self, model: ModelPT, precision: str = "float32"):
        if not isinstance(model, SpeechLMModel | FrameClassifierModel):
            raise InputError(
                f"is a {type(model).__name__}, which predicts no units; expected a pretrained SpeechLM or a frame "
                "classifier"
            )
        self._model: Any = model
        self._precision = precision
        self.sample_rate = int(model.cfg.get("sample_rate", 16000))

    @property
    def inventory(self) -> UnitInventory:
        """Which units there are."""
        return self._model.inventory

    @property
    def longest(self) -> float | None:
        """Seconds of the longest segment that the model takes; None: any."""
        return longest_audio(self._model)

    @torch.inference_mode()
    def __call__(self, segment: Segment) -> list[TimedUnit]:
        """The units of a segment at :attr:`sample_rate`, one after the other without a gap."""
        audio, lengths = collate_audio([segment.samples], self.sample_rate)
        audio, lengths = audio.to(self._model.device), lengths.to(self._model.device)
        with autocast(self._model.device.type, self._precision):
            if isinstance(self._model, FrameClassifierModel):
                (units,), rate = self._model.decode(audio, lengths), self.inventory.frame_rate
            else:
                units, rate = self._frames(audio, lengths), self._model.encoder.frame_rate
        return _timed(units, rate, segment, self.inventory, self.sample_rate)

    def _frames(self, audio: torch.Tensor, lengths: torch.Tensor) -> UnitSequence:
        (states_BTD,), frames = self._model.extract_features(audio, lengths, layers=[-1])
        logits_BTV = self._model.unit_classifiers["shared"](states_BTD)
        return UnitSequence.from_frames(logits_BTV[0, : int(frames[0])].argmax(-1).cpu().numpy())


def _timed(
    units: UnitSequence, rate: float, segment: Segment, inventory: UnitInventory, sample_rate: int
) -> list[TimedUnit]:
    end = segment.start + len(segment.samples) / sample_rate
    found: list[TimedUnit] = []
    frame = 0
    for unit, duration in zip(units.ids, units.durations, strict=True):
        start, frame = segment.start + frame / rate, frame + duration
        if start < end:  # a short segment was filled up with silence
            found.append(
                TimedUnit(inventory.symbols[unit], round(start, 3), round(min(segment.start + frame / rate, end), 3))
            )
    if found:
        found[-1] = found[-1]._replace(end=round(end, 3))  # front ends leave some samples at the end over
    return found

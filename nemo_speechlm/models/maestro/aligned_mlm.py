"""Aligned MLM, MAESTRO's task on text alone (section 2.3): RNN-T from masked states of resampled text.

Axis legend: B texts, T frames, P phones, D width.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from nemo_speechlm.checks import check_choice, check_whole
from nemo_speechlm.data.pretraining.batch import TokenBatch
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.multitask.average import WeightAverage, in_precision_of
from nemo_speechlm.models.common.multitask.figures import Figure
from nemo_speechlm.models.common.multitask.shared import encode_embedded
from nemo_speechlm.models.maestro.matching import Branches, phones_of, transducer_figures
from nemo_speechlm.modules.draws import Draws, whole_numbers
from nemo_speechlm.modules.durations import durations_of
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.masking import CoveringMask
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.text_branch import ConvTextEncoder, Refiner, resample


class Predictor(Protocol):
    """What predicts durations.

    Attributes:
        text_encoder: that is trained.
        average: of text encoder and duration model, by these names.
    """

    text_encoder: ConvTextEncoder
    average: Any


@dataclass(frozen=True)
class Repetition:
    """How often the state of a phone is repeated where there is no speech to tell.

    Args:
        kind: ``learned`` asks the duration model; ``fixed`` repeats each ``least`` times; ``random`` from ``least`` to
            ``most`` times, each as likely (JOIST, arXiv 2210.07353).
        least: at least so many frames, whatever the kind.
        most: at most so many.
    """

    kind: Literal["learned", "fixed", "random"] = "learned"
    least: int = 1
    most: int = 50

    def __post_init__(self):
        check_choice("model.repetition.kind", self.kind, ("learned", "fixed", "random"))
        check_whole("model.repetition.least", self.least, 1)
        check_whole("model.repetition.most", self.most)
        if self.most < self.least:
            raise SpeechLMError(
                f"model.repetition.most is {self.most}, which is less than model.repetition.least={self.least}"
            )

    def draw(self, model: Predictor, phones: Tensor, lengths: Tensor, generator: Draws = None) -> Tensor:
        """Frames (B, P) int64 of phones (B, P), 0 where padded."""
        if self.kind == "learned":
            frames = self._learned(model, phones, lengths)
        elif self.kind == "fixed":
            frames = torch.full_like(phones, self.least)
        else:
            frames = whole_numbers(self.least, self.most + 1, phones.shape, phones.device, generator)
        frames = frames.clamp(self.least, self.most)
        return frames.masked_fill(padding_mask(lengths, phones.shape[1]), 0)

    @torch.no_grad()
    def _learned(self, model: Predictor, phones: Tensor, lengths: Tensor) -> Tensor:
        with in_precision_of(model.text_encoder):
            states = model.average["text_encoder"](phones, lengths)
            predicted = model.average["duration_model"](states, lengths)
        return durations_of(predicted, lengths, longest=self.most)


class TextSide(Predictor, Protocol):
    """What makes states of text alone.

    Attributes:
        mlm_time: masks of frames.
        mlm_features: masks of channels.
    """

    refiner: Refiner
    repetition: Repetition
    mlm_time: CoveringMask
    mlm_features: CoveringMask


class MLMBranches(Branches, TextSide, Protocol):
    """What the task needs of a model."""

    average: WeightAverage


def text_states(model: TextSide, phones: Tensor, lengths: Tensor, generator: Draws = None) -> tuple[Tensor, Tensor]:
    """Phones (B, P) and lengths (B,) -> refined states (B, T, D) like those of speech, and the frames (B,)."""
    durations = model.repetition.draw(model, phones, lengths, generator)
    resampled, frames = resample(model.text_encoder(phones, lengths), durations)
    return model.refiner(resampled, frames), frames


def aligned_mlm(model: MLMBranches, batch: TokenBatch, generator: Draws = None) -> dict[str, Figure]:
    """RNN-T losses of phones and graphemes from states of text, masked in time and in frequency."""
    encoded, frames = encode_text(model, model.encoder, batch, generator)
    return transducer_figures(model, "mlm", encoded, frames, batch)


def encode_text(
    model: "TextSide", encoder: SpeechLMEncoder, batch: TokenBatch, generator: Draws = None
) -> tuple[Tensor, Tensor]:
    """The masked states of a text behind the shared encoder (B, T, D), and their frames (B,)."""
    states, frames = text_states(model, *phones_of(batch), generator)
    B, T, D = states.shape
    time = model.mlm_time.draw(frames, T, generator)
    features = model.mlm_features.draw(torch.full((B,), D, device=states.device), D, generator)
    masked = states.masked_fill(time.unsqueeze(2) | features.unsqueeze(1), 0.0)
    return encode_embedded(encoder, masked, frames), frames

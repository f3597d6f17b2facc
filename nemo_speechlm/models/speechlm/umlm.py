"""UMLM, the task on speech: predict the units of masked frames at both transformers (SpeechLM section 3.3).

Axis legend: B utterances, S samples, T frames of the encoder, L frames of the units, V units.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from nemo_speechlm.data.pretraining.batch import PAD_UNIT, SpeechBatch
from nemo_speechlm.kernels.mixing import mix_states
from nemo_speechlm.losses import UnitPrediction, unit_prediction
from nemo_speechlm.models.common.joint import JointMean
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.modules.padding import padding_mask

LEVELS = ("speech", "shared")
"""UMLM is computed on the states of both transformers."""


class SpeechOutput(NamedTuple):
    """What the speech branch computes for a batch.

    Attributes:
        logits: for each of ``LEVELS``, (B, T, V).
        units: (B, T) the unit of each frame, ``PAD_UNIT`` where it has none.
        mask: (B, T) bool, frames that were masked.
        swap: (B, T) bool, frames swapped for the embedding of their unit before the shared transformer.
        penalty: (B, T) mean square of the front end's features of each frame, 0 where it does not count.
        counted: () frames in which it does, a number where it is known without asking the device.
    """

    logits: list[Tensor]
    units: Tensor
    mask: Tensor
    swap: Tensor
    penalty: Tensor
    counted: Tensor | int


class SpeechBranch(Protocol):
    """What UMLM needs of a model.

    Attributes:
        label_ratio: frames of the units per frame of the encoder.
        released_labels: the released code predicts ``<pad>`` where an utterance's labels end before its audio, and
            lets its transformers see what is behind them; we predict nothing and end the utterance there.
        pad_class: the unit ``<pad>``, with ``released_labels``.
    """

    preprocessor: nn.Module
    spec_augmentation: nn.Module | None
    encoder: SpeechLMEncoder
    unit_embedding: nn.Embedding
    unit_classifiers: nn.ModuleDict
    masking: SpanMask
    swapping: SpanMask
    released_labels: bool
    pad_class: int
    training: bool

    @property
    def label_ratio(self) -> float: ...  # noqa: D102


def forward_speech(
    model: SpeechBranch,
    batch: SpeechBatch,
    label_offset: int = 0,
    mask: Tensor | None = None,
    swap: Tensor | None = None,
    generator: Draws = None,
) -> SpeechOutput:
    """Mask, encode, swap, encode, classify.

    Args:
        model: whose encoder and classifiers.
        batch: audio and its units.
        label_offset: frame t takes label ``t * label_ratio + label_offset``.
        mask: (B, T) bool, frames to mask; drawn where it is None.
        swap: (B, T) bool, frames to swap; drawn where it is None. Masked frames are never swapped.
        generator: what masks and swaps are drawn with.
    """
    assert batch.units is not None
    encoder = model.encoder
    signal, length = model.preprocessor(input_signal=batch.audio, length=batch.audio_lengths)
    if model.spec_augmentation is not None and model.training:
        signal = model.spec_augmentation(input_spec=signal, length=length)
    frames = encoder.embed_speech(signal, length, int(batch.units.shape[1] / model.label_ratio))
    states, lengths = frames.states, frames.lengths
    if not model.released_labels:  # each ends with its own labels, whatever the longest in the batch has
        assert batch.unit_lengths is not None
        lengths = torch.minimum(lengths, (batch.unit_lengths.double() / model.label_ratio).long().clamp(min=1))
    T = states.shape[1]
    units = units_of_frames(batch.units, T, model.label_ratio, label_offset)
    padding = padding_mask(lengths, T)
    if mask is None:
        mask = model.masking.draw(lengths, T, generator)
    speech, _ = encoder.encode_speech(encoder.apply_mask(states, mask, padding), padding)
    # Where an utterance's labels end, it ends for the shared transformer too, as in the released code.
    unlabeled = units == PAD_UNIT
    if model.released_labels:
        targets = units.masked_fill(unlabeled, model.pad_class).masked_fill(padding, PAD_UNIT)
    else:
        unlabeled = unlabeled | padding
        targets = units.masked_fill(unlabeled, PAD_UNIT)
    if swap is None:
        swap = model.swapping.draw(lengths, T, generator)
    swap = swap & ~mask & ~unlabeled
    # The released code's labels may go on behind the audio; its shared transformer then attends to zeros there.
    hidden = padding if model.released_labels else unlabeled
    swapped = {}
    if model.swapping.prob > 0:
        swapped = {"swap_BT": swap, "units_BT": units, "embedding_VD": model.unit_embedding.weight}
    shared_input = mix_states(speech, padding_BT=hidden, backend=encoder.kernels, **swapped)
    shared, _ = encoder.encode_shared(shared_input, unlabeled)
    logits = [model.unit_classifiers["speech"](speech), model.unit_classifiers["shared"](shared)]
    counted = padding.numel() if encoder.released_padding else frames.lengths.sum()
    return SpeechOutput(logits, targets, mask, swap, frames.penalty, counted)


def units_of_frames(units: Tensor, num_frames: int, ratio: float, offset: int) -> Tensor:
    """Units (B, L) -> (B, num_frames): frame t takes unit ``t * ratio + offset``, or the last one."""
    frames = torch.arange(num_frames, device=units.device, dtype=torch.float64)  # bf16-true would round places
    index = (frames * ratio).long() + offset
    return units[:, index.clamp(max=units.shape[1] - 1)]


def draw_offset(ratio: float) -> int:
    """Which of the units of a frame is its label; one for the batch. Over the steps, every unit is used."""
    return int(torch.randint(max(int(ratio), 1), ())) if ratio > 1 else 0


def predictions(output: SpeechOutput) -> tuple[dict[str, UnitPrediction], dict[str, UnitPrediction]]:
    """How well the units of masked and of unmasked frames are predicted, for each of ``LEVELS``."""
    labeled = output.units != PAD_UNIT
    masked, unmasked = (
        {
            level: unit_prediction(logits, output.units, frames)
            for level, logits in zip(LEVELS, output.logits, strict=True)
        }
        for frames in (output.mask & labeled, ~output.mask & labeled)
    )
    return masked, unmasked


def heard_units(output: SpeechOutput) -> dict[str, tuple[Tensor, Tensor]]:
    """For each of ``LEVELS``: of how many frames that can be heard the unit is found, and how many these are.

    Swapped frames are none: the shared transformer is given their unit.
    """
    heard = ~output.mask & ~output.swap & (output.units != PAD_UNIT)
    return {
        level: (((logits.argmax(-1) == output.units) & heard).sum(), heard.sum())
        for level, logits in zip(LEVELS, output.logits, strict=True)
    }


def umlm_terms(output: SpeechOutput) -> dict[str, tuple[Tensor, Tensor | float]]:
    """What is logged of a batch of speech, each as a sum () and what it is of; some are terms of the loss."""
    masked, unmasked = predictions(output)
    terms: dict[str, tuple[Tensor, Tensor | float]] = {}
    heard = heard_units(output)
    for level in LEVELS:
        terms[f"umlm_{level}"] = masked[level].loss, masked[level].frames
        terms[f"umlm_unmasked_{level}"] = unmasked[level].loss, unmasked[level].frames
        terms[f"masked_accuracy_{level}"] = masked[level].correct.float(), masked[level].frames
        terms[f"unmasked_accuracy_{level}"] = heard[level][0].float(), heard[level][1]
    labeled = (output.units != PAD_UNIT).sum()
    terms["feature_penalty"] = output.penalty.sum(), output.counted
    terms["fraction_masked"] = output.mask.sum().float(), labeled
    terms["fraction_swapped"] = output.swap.sum().float(), labeled
    return terms


def umlm_loss(means: Mapping[str, JointMean], weights: DictConfig) -> tuple[Tensor, Tensor]:
    """The loss () of speech: this process's part, which has the gradient, and that of all of them.

    Args:
        means: of :func:`umlm_terms`.
        weights: ``umlm``, ``umlm_unmasked`` and ``feature_penalty``.
    """
    weighted = [(f"umlm_{level}", weights.umlm) for level in LEVELS]
    weighted.append(("feature_penalty", weights.feature_penalty))
    if weights.umlm_unmasked > 0:
        weighted += [(f"umlm_unmasked_{level}", weights.umlm_unmasked) for level in LEVELS]
    own = sum(means[name].loss * weight for name, weight in weighted)
    joint = sum(means[name].mean * weight for name, weight in weighted)
    return own, joint  # type: ignore[return-value]

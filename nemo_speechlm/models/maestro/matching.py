"""MAESTRO's tasks on utterances with their texts (sections 2.2 and 2.3): RNN-T, modality matching, durations.

And an optional CTC loss, which the paper has not.

Axis legend: B pairs, T frames, P phones, U graphemes, D width.
"""

from collections.abc import Collection
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.data.pretraining.batch import PairBatch, TokenBatch
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.losses import at_least_float32
from nemo_speechlm.models.common.multitask.average import WeightAverage, in_precision_of
from nemo_speechlm.models.common.multitask.ctc import ctc_figure
from nemo_speechlm.models.common.multitask.figures import Figure
from nemo_speechlm.models.maestro.transducer import TransducerBranch
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.text_branch import ConvTextEncoder, LightweightDurations, Refiner, resample, token_frames


class Branches(Protocol):
    """What the tasks need of a model.

    Attributes:
        ctc_head: from the output of the speech encoder to phones and blank.
        detach: the speech side of matching gets no gradient.
        normalize: both sides of matching are normalized first.
    """

    encoder: SpeechLMEncoder
    text_encoder: ConvTextEncoder
    duration_model: LightweightDurations
    refiner: Refiner
    phones: TransducerBranch
    graphemes: TransducerBranch
    ctc_head: nn.Linear
    average: WeightAverage
    detach: bool
    normalize: bool


class Speech(NamedTuple):
    """An utterance on its way.

    Attributes:
        signal: (B, C, S) input of the front end.
        signal_lengths: (B,).
        states: (B, T, D) output of the speech encoder.
        lengths: (B,) frames.
    """

    signal: Tensor
    signal_lengths: Tensor
    states: Tensor
    lengths: Tensor


def shared_input(encoder: SpeechLMEncoder, speech: Tensor) -> Tensor:
    """The output of the speech encoder as the shared encoder takes it in: what states of text are matched with."""
    return encoder.shared_transformer.pre_encode(speech)  # type: ignore[union-attr, operator]


def pair_figures(model: Branches, speech: Speech, batch: PairBatch, tasks: Collection[str]) -> dict[str, Figure]:
    """What the tasks on pairs compute.

    Args:
        model: whose parts.
        speech: the batch's, as the speech encoder gives it.
        batch: with phones.
        tasks: of ``rnnt``, ``ctc``, ``matching`` and ``durations``.
    """
    phones, phone_lengths = phones_of(batch)
    figures: dict[str, Figure] = {}
    if "rnnt" in tasks:
        padding = padding_mask(speech.lengths, speech.states.shape[1])
        states, _ = model.encoder.encode_shared(speech.states, padding)
        figures |= transducer_figures(model, "rnnt", states, speech.lengths, batch)
    if "ctc" in tasks:
        figures["ctc"] = ctc_figure(model.ctc_head(speech.states), speech.lengths, phones, phone_lengths)
    if {"matching", "durations"} & set(tasks):
        durations = align(model, speech.signal, speech.signal_lengths, batch)
        text = model.text_encoder(phones, phone_lengths)
        if "durations" in tasks:
            figures["durations"] = duration_figure(model, text, durations, phone_lengths)
        if "matching" in tasks:
            refined = model.refiner(*resample(text, durations))
            # The front end may leave frames behind the end of the longest utterance.
            target = shared_input(model.encoder, speech.states)[:, : refined.shape[1]]
            figures |= matching_figures(refined, target.detach() if model.detach else target, speech.lengths, model)
    return figures


def transducer_figures(
    model: Branches, name: str, states: Tensor, frames: Tensor, batch: PairBatch | TokenBatch
) -> dict[str, Figure]:
    """RNN-T losses of phones and of graphemes from states (B, T, D) of the shared encoder, per token."""
    branches = {
        "phones": (model.phones, *phones_of(batch)),
        "graphemes": (model.graphemes, batch.tokens, batch.token_lengths),
    }
    return {
        f"{name}_{kind}": Figure(branch.nll(states, frames, tokens, lengths).sum(), lengths.sum())
        for kind, (branch, tokens, lengths) in branches.items()
    }


def phones_of(batch: PairBatch | TokenBatch) -> tuple[Tensor, Tensor]:
    """The phones (B, P) of a batch and how many they are (B,).

    Raises:
        SpeechLMError: if it was made without them.
    """
    if batch.phones is None or batch.phone_lengths is None:
        raise SpeechLMError("a batch without phones: its stream was made without a phone encoder")
    return batch.phones, batch.phone_lengths


@torch.no_grad()
def align(model: Branches, signal: Tensor, signal_lengths: Tensor, batch: PairBatch) -> Tensor:
    """How many frames (B, P) each phone of a pair lasts, by the averaged weights; their sums are the frames."""
    phones, phone_lengths = phones_of(batch)
    encoder: SpeechLMEncoder = model.average["encoder"]
    branch: TransducerBranch = model.average["phones"]
    with in_precision_of(model.encoder):
        exact = signal.to(next(encoder.parameters()).dtype)
        encoded, lengths = encoder(audio_signal=exact, length=signal_lengths)
        path = branch.align(encoded.transpose(1, 2), lengths, phones, phone_lengths)
    return token_frames(path, lengths, phone_lengths)


def duration_figure(model: Branches, text: Tensor, durations: Tensor, lengths: Tensor) -> Figure:
    """Squared error of the predicted log(1 + frames), per phone.

    Args:
        model: whose duration model.
        text: (B, P, D) states of the text encoder.
        durations: (B, P) aligned frames.
        lengths: (B,) phones.
    """
    predicted = at_least_float32(model.duration_model(text, lengths))
    error = (predicted - torch.log1p(durations.to(predicted.dtype))).square()
    return Figure(error.masked_fill(padding_mask(lengths, durations.shape[1]), 0.0).sum(), lengths.sum())


def matching_figures(refined: Tensor, target: Tensor, lengths: Tensor, model: Branches) -> dict[str, Figure]:
    """Modality matching: the mean square of the distance between states of text and of speech, per frame.

    Args:
        refined: (B, T, D) of text.
        target: (B, T, D) of speech.
        lengths: (B,) frames.
        model: says whether they are normalized.
    """
    refined, target = at_least_float32(refined), at_least_float32(target)
    if model.normalize:
        refined, target = (F.layer_norm(x, x.shape[-1:]) for x in (refined, target))
    inside = ~padding_mask(lengths, refined.shape[1])
    distance = (refined - target).square().mean(2)
    cosine = F.cosine_similarity(refined.detach(), target.detach(), dim=2)
    number = lengths.sum()
    return {
        "matching": Figure((distance * inside).sum(), number),
        "matching_cosine": Figure((cosine * inside).sum(), number),
    }

"""From phones to hidden units with durations, by a trained model.

Axis legend: B sentences, P phones, T frames of the hidden units, D width, V units.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from nemo_speechlm.data.length_batches import batches_by_length
from nemo_speechlm.modules.durations import durations_of


class Spoken(NamedTuple):
    """The hidden units of one sentence.

    Attributes:
        units: one id per frame.
        phone_durations: frames of each phone.
        cut_phones: how many of them have the longest duration that is allowed, or would have had a longer one.
    """

    units: list[int]
    phone_durations: list[int]
    cut_phones: int = 0


class SpeakingModel(Protocol):
    """What generation needs of a :class:`TextToUnitModel`."""

    training: bool
    longest_phone: int | None

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def encode(self, phones: Tensor, phone_lengths: Tensor, speakers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Phones (B, P) -> states (B, P, D), log-durations (B, P)."""

    def decode(self, states: Tensor, durations: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, P, D) and durations (B, P) -> logits (B, T, V), lengths (B,)."""

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on or off."""


@torch.inference_mode()
def generate(
    model: SpeakingModel,
    phones: Sequence[Sequence[int]],
    speakers: Sequence[int] | None = None,
    batch_frames: int = 8000,
    speed: float = 1.0,
) -> list[Spoken]:
    """The most likely hidden units of sentences, computed in evaluation mode, in batches of similar length.

    Args:
        model: the model.
        phones: ids of each sentence's phones.
        speakers: one for each sentence, where the model has speakers.
        batch_frames: in a batch, padding included; 0: each sentence has its own. With ``released_padding``, units of a
            sentence depend on its batch.
        speed: durations are divided by it.

    Returns:
        one for each sentence; without a frame where every phone is predicted to have none. A phone lasts
        ``longest_phone`` frames at most; how often that was met is counted.
    """
    was_training = model.training
    model.train(False)
    try:
        states, durations = _states_and_durations(model, phones, speakers, batch_frames, speed)
        found = [Spoken([], own.tolist(), _cut(own, model.longest_phone)) for own in durations]
        frames = [int(own.sum()) for own in durations]
        for items in batches_by_length(frames, batch_frames):
            batch = [item for item in items.tolist() if frames[item]]
            if not batch:
                continue
            padded_states, padded_durations = (
                nn.utils.rnn.pad_sequence([rows[item] for item in batch], batch_first=True)
                for rows in (states, durations)
            )
            best = model.decode(padded_states, padded_durations)[0].argmax(2).tolist()
            for item, row in zip(batch, best, strict=True):
                found[item] = found[item]._replace(units=row[: frames[item]])
        return found
    finally:
        model.train(was_training)


def _cut(durations: Tensor, longest: int | None) -> int:
    return 0 if longest is None else int((durations >= longest).sum())


def _states_and_durations(
    model: SpeakingModel,
    phones: Sequence[Sequence[int]],
    speakers: Sequence[int] | None,
    batch_phones: int,
    speed: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """States (P, D) and durations (P,) of each sentence."""
    states: list[Tensor] = [torch.empty(0)] * len(phones)
    durations = list(states)
    for batch in batches_by_length([len(sentence) for sentence in phones], batch_phones):
        rows = [torch.as_tensor(phones[item], device=model.device) for item in batch]
        lengths = torch.tensor([len(row) for row in rows], device=model.device)
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        voices = None if speakers is None else torch.tensor([speakers[i] for i in batch], device=model.device)
        encoded, log_durations = model.encode(padded, lengths, voices)
        predicted = durations_of(log_durations, lengths, speed, model.longest_phone)
        for item, state, duration, length in zip(batch, encoded, predicted, lengths.tolist(), strict=True):
            states[item], durations[item] = state[:length], duration[:length]
    return states, durations

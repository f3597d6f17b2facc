"""What a pretraining step receives: a batch of each stream that the step has.

Batches know the ids of their examples: where they stand in the manifests. Messages name them.

Axis legend: B utterances or sentences, S samples, L unit frames, U characters or tokens, P phones.
"""

from typing import NamedTuple

from torch import Tensor

from nemo_speechlm.data.bad_examples import BadExample

PAD_UNIT = -1
"""Stands in padded places of unit tensors; no unit has it."""


class SpeechBatch(NamedTuple):
    """Audio, with one unit per frame of the inventory's frame rate where the model wants units.

    Attributes:
        audio: (B, S) float, zero where padded.
        audio_lengths: (B,) int64, samples.
        units: (B, L) int64, ``PAD_UNIT`` where padded; None for speech without units.
        unit_lengths: (B,) int64, frames; None for speech without units.
        ids: of the utterances; empty where they are not known.
    """

    audio: Tensor
    audio_lengths: Tensor
    units: Tensor | None = None
    unit_lengths: Tensor | None = None
    ids: tuple[str, ...] = ()


class TextBatch(NamedTuple):
    """Expanded unit sequences with the characters they spell.

    Attributes:
        units: (B, L) int64, one unit per text frame, ``PAD_UNIT`` where padded.
        unit_lengths: (B,) int64, frames.
        targets: (B, U) int64 character ids (index into the model's ``labels``), 0 where padded.
        target_lengths: (B,) int64, characters.
        ids: of the sentences; empty where they are not known.
    """

    units: Tensor
    unit_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    ids: tuple[str, ...] = ()


class TokenBatch(NamedTuple):
    """Sentences as tokens, for models whose text has no units.

    Attributes:
        tokens: (B, U) int64, 0 where padded.
        token_lengths: (B,) int64.
        ids: of the examples; empty where they are not known.
        phones: (B, P) int64, 0 where padded; None where the model does not want them.
        phone_lengths: (B,) int64, or None.
    """

    tokens: Tensor
    token_lengths: Tensor
    ids: tuple[str, ...] = ()
    phones: Tensor | None = None
    phone_lengths: Tensor | None = None


class PairBatch(NamedTuple):
    """Utterances with their texts.

    Attributes:
        audio: (B, S) float, zero where padded.
        audio_lengths: (B,) int64, samples.
        tokens: (B, U) int64, 0 where padded.
        token_lengths: (B,) int64.
        ids: of the examples; empty where they are not known.
        phones: (B, P) int64, 0 where padded; None where the model does not want them.
        phone_lengths: (B,) int64, or None.
    """

    audio: Tensor
    audio_lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    ids: tuple[str, ...] = ()
    phones: Tensor | None = None
    phone_lengths: Tensor | None = None


class PretrainBatch(NamedTuple):
    """One step's data; a stream that the step does not have is None.

    Attributes:
        number: batches that the rank had before this one, in the run as a whole; None in validation.
        stand_in: another rank's batch, or one made up for a batch whose examples are all bad: it is there so that all
            ranks have as many, and must not be counted.
        read: examples that were read for it, good and bad; a loader takes this and ``bad`` out, once it has counted
            them.
        bad: examples that could not be used, those between this batch and the one before included.
    """

    speech: SpeechBatch | None = None
    text: TextBatch | TokenBatch | None = None
    pairs: PairBatch | None = None
    number: int | None = None
    stand_in: bool = False
    read: int = 0
    bad: tuple[BadExample, ...] = ()

    def numbered(self, number: int | None) -> "PretrainBatch":
        """The batch with its number, and without what was bad."""
        return self._replace(number=number, read=0, bad=())

    def with_bad(self, bad: tuple[BadExample, ...]) -> "PretrainBatch":
        """The batch with more bad examples."""
        return self._replace(read=self.read + len(bad), bad=(*bad, *self.bad))

    def as_stand_in(self) -> "PretrainBatch":
        """The batch as one that is not counted, nor what was bad in it."""
        return self._replace(stand_in=True, read=0, bad=())

"""UCTC, the task on text: from masked units to the characters that they spell (SpeechLM section 3.3).

Axis legend: B sentences, L frames of the units, U characters.
"""

from typing import Protocol

from torch import Tensor, nn

from nemo_speechlm.data.pretraining.batch import TextBatch
from nemo_speechlm.losses import UCTCLoss
from nemo_speechlm.modules.draws import Draws
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.modules.padding import padding_mask


class TextBranch(Protocol):
    """What UCTC needs of a model."""

    encoder: SpeechLMEncoder
    unit_embedding: nn.Embedding
    text_masking: SpanMask
    ctc_head: nn.Module
    uctc_loss: UCTCLoss
    labels: list[str]


def forward_text(
    model: TextBranch, batch: TextBatch, mask: Tensor | None = None, generator: Draws = None
) -> tuple[Tensor, Tensor]:
    """Embed the units, mask, encode with the shared transformer, CTC head.

    Args:
        model: whose encoder and head.
        batch: expanded units.
        mask: (B, L) bool, frames to mask; drawn where it is None.
        generator: what the mask is drawn with.

    Returns:
        log-probabilities (B, L, labels + 1), blank last, and the mask.
    """
    states, mask = encode_text(model.encoder, model.unit_embedding, model.text_masking, batch, mask, generator)
    return model.ctc_head(encoder_output=states.transpose(1, 2)), mask


def encode_text(
    encoder: SpeechLMEncoder,
    embedding: nn.Embedding,
    masking: SpanMask,
    batch: TextBatch,
    mask: Tensor | None = None,
    generator: Draws = None,
) -> tuple[Tensor, Tensor]:
    """:func:`forward_text` as far as the output of the shared transformer.

    Args:
        encoder: with the vector that stands for masked frames, and the shared transformer.
        embedding: of the units.
        masking: how masks are drawn.
        batch: expanded units.
        mask: (B, L) bool, frames to mask; drawn where it is None.
        generator: what the mask is drawn with.

    Returns:
        states (B, L, D), and the mask.
    """
    L = batch.units.shape[1]
    lengths = batch.unit_lengths.to(batch.units.device, non_blocking=True)
    padding = padding_mask(lengths, L)
    if mask is None:
        mask = masking.draw(lengths, L, generator)
    states = encoder.apply_mask(embedding(batch.units.clamp(min=0)), mask, padding)
    return encoder.encode_shared(states, padding)[0], mask


def uctc(model: TextBranch, batch: TextBatch, log_probs: Tensor) -> Tensor:
    """The CTC loss () per character of the batch."""
    return model.uctc_loss(
        log_probs=log_probs,
        targets=batch.targets,
        input_lengths=batch.unit_lengths,
        target_lengths=batch.target_lengths,
    )


def uctc_terms(model: TextBranch, batch: TextBatch, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """The sum () of the CTC loss, and the characters () it is of, ends of sentences included."""
    return ctc_terms(model.uctc_loss, log_probs, batch.targets, batch.unit_lengths, batch.target_lengths)


def ctc_terms(
    loss: UCTCLoss, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """As :func:`uctc_terms`, of the arguments of :class:`UCTCLoss`."""
    characters = target_lengths.sum() + len(target_lengths)
    mean = loss(log_probs=log_probs, targets=targets, input_lengths=input_lengths, target_lengths=target_lengths)
    return mean * characters, characters


def greedy_texts(labels: list[str], log_probs: Tensor, batch: TextBatch) -> tuple[list[str], list[str]]:
    """What the best path of each sentence spells, and what it should."""
    blank = len(labels)
    hypotheses, references = [], []
    best = log_probs.argmax(-1).tolist()
    rows = zip(best, batch.unit_lengths.tolist(), batch.targets.tolist(), batch.target_lengths.tolist(), strict=True)
    for path, length, target, target_length in rows:
        path = path[:length]
        kept = [c for c, before in zip(path, [blank, *path[:-1]], strict=True) if c not in (before, blank)]
        hypotheses.append("".join(labels[c] for c in kept))
        references.append("".join(labels[c] for c in target[:target_length]))
    return hypotheses, references

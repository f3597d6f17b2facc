"""Span masking, SLAM's task on text (SLAM, section 3.2): predict the tokens of masked spans.

Axis legend: B texts, U tokens, V tokens of the tokenizer, D width.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.pretraining.batch import TokenBatch
from nemo_speechlm.models.common.multitask.figures import Figure, figures_of
from nemo_speechlm.models.common.multitask.shared import encode_embedded
from nemo_speechlm.models.common.multitask.w2v_bert import prediction
from nemo_speechlm.modules.draws import Draws, uniform, whole_numbers
from nemo_speechlm.modules.encoder import SpeechLMEncoder
from nemo_speechlm.modules.masking import CoveringMask
from nemo_speechlm.modules.text_embedding import TextEmbedding


@dataclass(frozen=True)
class Corruption:
    """What the encoder sees of a masked token; (0.8, 0.1) is BERT's.

    Args:
        mask: share of the masked tokens that become the mask token.
        random: share that becomes a token drawn at random; the others stay as they are.
    """

    mask: float = 1.0
    random: float = 0.0

    def __post_init__(self):
        for name, share in {"mask": self.mask, "random": self.random}.items():
            check_number(f"model.text_corruption.{name}", share)
        if min(self.mask, self.random) < 0 or self.mask + self.random > 1 + 1e-9:
            raise ValueError(
                f"model.text_corruption: mask is {self.mask} and random {self.random}, expected shares that add up to "
                "1 at most"
            )

    def apply(self, tokens: Tensor, mask: Tensor, embedding: TextEmbedding, generator: Draws = None) -> Tensor:
        """What stands in the place of the tokens (B, U) where ``mask`` (B, U) is True."""
        draws = uniform(tokens.shape, tokens.device, generator)
        others = whole_numbers(0, embedding.num_tokens, tokens.shape, tokens.device, generator)
        changed = torch.where(draws < self.mask + self.random, others, tokens)
        changed = changed.masked_fill(draws < self.mask, embedding.mask)
        return torch.where(mask, changed, tokens)


class TokenBranch(Protocol):
    """What the task needs of a model."""

    encoder: SpeechLMEncoder
    text_embedding: TextEmbedding
    text_masking: CoveringMask
    text_corruption: Corruption


def masked_text(
    model: TokenBranch, batch: TokenBatch, mask: Tensor | None = None, generator: Draws = None
) -> dict[str, Figure]:
    """``masked_text`` and its accuracy on a batch.

    Args:
        model: whose encoder and embedding.
        batch: texts.
        mask: (B, U) bool, tokens to predict; drawn where it is None.
        generator: what masks and random tokens are drawn with.
    """
    if mask is None:
        mask = model.text_masking.draw(batch.token_lengths, batch.tokens.shape[1], generator)
    seen = model.text_corruption.apply(batch.tokens, mask, model.text_embedding, generator)
    states = encode_embedded(model.encoder, *model.text_embedding(seen, batch.token_lengths))[:, 1:]
    found = prediction(model.text_embedding.logits(states[mask]), batch.tokens[mask])
    return figures_of("masked_text", "masked_text_accuracy", found)

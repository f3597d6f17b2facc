"""Tokens of text as states of an encoder: embedding, sinusoidal positions, layer norm (SLAM, section 3.1).

Axis legend: B texts, U tokens, V tokens of the tokenizer, D width.
"""

import math

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn

from nemo_speechlm.kernels.norm import layer_norm
from nemo_speechlm.modules.sinusoids import alternating_sinusoids


class TextEmbedding(NeuralModule):
    """Embeds tokens; a CLS token stands before each text.

    Beside the V tokens of the tokenizer there are two more: ``mask`` (id V) and ``cls`` (id V + 1).

    Args:
        num_tokens: V.
        d_model: D, an even number.
        dropout: after the layer norm.
    """

    def __init__(self, num_tokens: int, d_model: int, dropout: float = 0.1):
        super().__init__()
        self.num_tokens = num_tokens
        self.mask, self.cls = num_tokens, num_tokens + 1
        self.tokens = nn.Embedding(num_tokens + 2, d_model)
        nn.init.normal_(self.tokens.weight, std=d_model**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_tokens))
        self.scale = math.sqrt(d_model)
        self.norm = layer_norm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embed texts.

        Args:
            tokens: (B, U) ids; ``mask`` may be among them.
            lengths: (B,) tokens of each.

        Returns:
            states (B, 1 + U, D), those of CLS first, and their lengths (B,), which are larger by 1.
        """
        with_cls = nn.functional.pad(tokens, (1, 0), value=self.cls)
        embedded = self.tokens(with_cls) * self.scale
        embedded = embedded + alternating_sinusoids(with_cls.shape[1], embedded.shape[2], embedded)
        return self.dropout(self.norm(embedded)), lengths + 1

    def logits(self, states: Tensor) -> Tensor:
        """States (N, D) -> (N, V): how near they are to the tokens' embeddings, which input and output share."""
        return nn.functional.linear(states, self.tokens.weight[: self.num_tokens], self.bias)

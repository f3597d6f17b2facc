"""The attention decoder of SpeechLM's translation models.

Axis legend: B utterances, N hypotheses (B times the beam), U tokens, T frames, D decoder width, E encoder width,
V tokens of the vocabulary.
"""

from dataclasses import dataclass, replace

import torch
from nemo.core.classes import NeuralModule
from torch import Tensor, nn

from nemo_speechlm.kernels.norm import layer_norm
from nemo_speechlm.modules.attention import RelativePositions
from nemo_speechlm.modules.decoder.attention import CausalSelfAttention, CrossAttention, KeysValues
from nemo_speechlm.modules.sinusoids import fairseq_sinusoids
from nemo_speechlm.modules.transformer import TransformerLayer

PAD = 1
"""The padding token of fairseq's dictionaries, and so of all our decoders' vocabularies."""


@dataclass(frozen=True)
class DecoderState:
    """What a decoder keeps between two tokens.

    Attributes:
        source: of each layer, keys and values of the encoder's states (B, H, T, K).
        mask: (B, 1, 1, T) float, -inf where padded.
        past: of each layer, keys and values of the tokens so far (N, H, U, K).
        length: U.
    """

    source: list[KeysValues]
    mask: Tensor
    past: list[KeysValues]
    length: int


class DecoderLayer(TransformerLayer):
    """A transformer layer with attention to the encoder between its two halves."""

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        encoder_dim: int,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        pre_norm: bool,
        relative: bool = True,
    ):
        super().__init__(d_model, n_heads, d_ff, dropout, attention_dropout, activation_dropout, pre_norm, relative)
        self.self_attn = CausalSelfAttention(d_model, n_heads, attention_dropout, relative and pre_norm)
        self.cross_attn = CrossAttention(d_model, n_heads, encoder_dim, attention_dropout)
        self.cross_attn_norm = layer_norm(d_model)

    def forward(  # type: ignore[override]
        self,
        x_NUD: Tensor,
        positions: RelativePositions | None,
        source: KeysValues,
        mask: Tensor | None,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """(N, U, D) -> (N, U, D) and the keys and values of all tokens; see the two attentions for the others."""
        x, pre = x_NUD, self.pre_norm
        attended, past = self.self_attn(self.self_attn_norm(x) if pre else x, positions, past)
        x = x + self.dropout(attended)
        x = x if pre else self.self_attn_norm(x)
        x = x + self.dropout(self.cross_attn(self.cross_attn_norm(x) if pre else x, source, mask))
        x = x if pre else self.cross_attn_norm(x)
        x = x + self._feed_forward(self.final_norm(x) if pre else x)
        return (x if pre else self.final_norm(x)), past


class RelativeDecoder(NeuralModule):
    """Transformer decoder with the relative positions of SpeechLM (released code, translation models).

    Tokens are those of fairseq's dictionaries: 1 pads, 2 begins and ends a sentence.

    Args:
        vocab_size: V.
        n_layers: number of layers.
        d_model: D.
        n_heads: attention heads.
        d_ff: inner width of the feed-forward.
        encoder_dim: E; None: D.
        pre_norm: layer norms before attention and feed-forward, and one at the end, instead of after.
        dropout: after attention, feed-forward and the embedding.
        attention_dropout: on attention weights.
        activation_dropout: inside the feed-forward.
        layerdrop: probability of leaving out a layer in a training step.
        max_distance: of the relative positions, in tokens; 0 for none.
        absolute_positions: add sinusoids to the embeddings.
        tie_embeddings: predict tokens with the matrix that embeds them.
        max_length: longest sequence, in tokens, ``</s>`` included.
    """

    def __init__(
        self,
        vocab_size: int,
        n_layers: int = 6,
        d_model: int = 768,
        n_heads: int = 8,
        d_ff: int = 3072,
        encoder_dim: int | None = None,
        pre_norm: bool = False,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        layerdrop: float = 0.0,
        max_distance: int = 24,
        absolute_positions: bool = True,
        tie_embeddings: bool = False,
        max_length: int = 1024,
    ):
        super().__init__()
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.encoder_dim = encoder_dim or d_model
        self.layerdrop = layerdrop
        self.absolute_positions = absolute_positions
        self.max_length = max_length
        self.embedding = nn.Embedding(vocab_size, d_model, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()
        self.output = nn.Linear(d_model, vocab_size, bias=False)
        nn.init.normal_(self.output.weight, std=d_model**-0.5)
        if tie_embeddings:
            self.output.weight = self.embedding.weight
        self.dropout = nn.Dropout(dropout)
        self.relative_positions = RelativePositions(d_model // n_heads, max_distance) if max_distance else None
        dropouts = (dropout, attention_dropout, activation_dropout)
        layers = [
            DecoderLayer(d_model, n_heads, d_ff, self.encoder_dim, *dropouts, pre_norm, max_distance > 0)
            for _ in range(n_layers)
        ]
        for layer in layers:
            for linear in (layer.fc1, layer.fc2):
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)
        self.layers = nn.ModuleList(layers)
        self.output_norm = layer_norm(d_model) if pre_norm else None

    def forward(self, tokens: Tensor, encoded: Tensor, padding: Tensor) -> Tensor:
        """Score the next token after each of given ones.

        Args:
            tokens: (B, U), beginning with ``</s>``; padding at the end only.
            encoded: (B, T, E) encoder states.
            padding: (B, T) bool, True where they are padding.

        Returns:
            logits (B, U, V).
        """
        x = self._embed(tokens, 0)
        mask = _float_mask(padding, x.dtype)
        for layer in self.layers:
            if self.training and self.layerdrop and torch.rand(()) < self.layerdrop:
                continue
            x, _ = layer(x, self.relative_positions, layer.cross_attn.keys_values(encoded), mask)  # type: ignore[union-attr, operator]
        return self._predict(x)

    def begin(self, encoded: Tensor, padding: Tensor) -> DecoderState:
        """The state before the first token; arguments as those of :meth:`forward`."""
        source = [layer.cross_attn.keys_values(encoded) for layer in self.layers]  # type: ignore[union-attr, operator]
        return DecoderState(source, _float_mask(padding, encoded.dtype), [], 0)

    def step(self, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Score the next token.

        Args:
            tokens: (N,) the last token of each hypothesis; those of an utterance stand together.
            state: what the tokens before them left.

        Returns:
            logits (N, V), and the state after these tokens.
        """
        x = self._embed(tokens.unsqueeze(1), state.length)
        past = []
        for number, (layer, source) in enumerate(zip(self.layers, state.source, strict=True)):
            own = state.past[number] if state.past else None
            x, kept = layer(x, self.relative_positions, source, state.mask, own)
            past.append(kept)
        return self._predict(x).squeeze(1), replace(state, past=past, length=state.length + 1)

    def select(self, state: DecoderState, hypotheses: Tensor, utterances: Tensor | None = None) -> DecoderState:
        """Put hypotheses (rows of N) in another order, or leave some out; and likewise utterances (rows of B)."""
        past = [(k[hypotheses], v[hypotheses]) for k, v in state.past]
        if utterances is None:
            return replace(state, past=past)
        source = [(k[utterances], v[utterances]) for k, v in state.source]
        return replace(state, past=past, source=source, mask=state.mask[utterances])

    def _embed(self, tokens_NU: Tensor, start: int) -> Tensor:
        if start + tokens_NU.shape[1] > self.max_length:
            raise ValueError(f"{start + tokens_NU.shape[1]} tokens, the decoder's max_length is {self.max_length}")
        x = self.embedding(tokens_NU) * self.d_model**0.5
        if self.absolute_positions:
            # The first token has the position behind that of padding, which has none.
            positions = torch.arange(start, start + tokens_NU.shape[1], device=tokens_NU.device) + PAD + 1
            table = fairseq_sinusoids(positions, self.d_model).to(x.dtype)
            x = x + table * tokens_NU.ne(PAD).unsqueeze(2)
        return self.dropout(x)

    def _predict(self, x_NUD: Tensor) -> Tensor:
        return self.output(x_NUD if self.output_norm is None else self.output_norm(x_NUD))


def _float_mask(padding: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros_like(padding, dtype=dtype).masked_fill(padding, -torch.inf)
    # An utterance without frames must not turn into NaN.
    return mask.masked_fill(padding.all(1, keepdim=True), 0.0)[:, None, None, :]

"""NeMo's transformer decoder behind the interface of ours.

Axis legend: B utterances, N hypotheses (B times the beam), U tokens, T frames, D width, V tokens of the vocabulary.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from nemo.collections.asr.modules.transformer.transformer import TransformerDecoderNM
from nemo.collections.asr.parts.submodules.token_classifier import TokenClassifier
from nemo.collections.common.parts import transformer_weights_init
from nemo.core.classes import NeuralModule
from torch import Tensor

from nemo_speechlm.modules.decoder.relative import PAD

KeysValues = tuple[Tensor, Tensor]

_MASKED = -10000.0
"""What NeMo adds to the scores of padding."""


@dataclass(frozen=True)
class NemoDecoderState:
    """What the decoder needs again at the next token.

    Attributes:
        source: of each layer, keys and values of the encoder's states (B, H, T, K), computed once for all tokens.
        mask: (B, 1, 1, T) what is added to the scores.
        past: of each layer, keys and values of the tokens so far (N, H, U, K).
        length: U.
    """

    source: list[KeysValues]
    mask: Tensor
    past: list[KeysValues]
    length: int


class NemoDecoder(NeuralModule):
    """A ``TransformerDecoderNM`` with an output layer that shares the embedding's matrix (as NeMo's models have it).

    It takes the options of :class:`~nemo_speechlm.modules.RelativeDecoder`, so that ``_target_`` alone changes the
    decoder of a recipe. Its positions are absolute and its output layer tied, whatever ``max_distance`` and
    ``tie_embeddings`` say.

    Args:
        vocab_size: V.
        n_layers: number of layers.
        d_model: D.
        n_heads: attention heads.
        d_ff: inner width of the feed-forward.
        pre_norm: layer norms before attention and feed-forward, and one at the end, instead of after.
        dropout: after attention, feed-forward and the embedding.
        attention_dropout: on attention weights.
        activation_dropout: must be 0, NeMo's has none.
        layerdrop: must be 0, NeMo's has none.
        max_distance: not used.
        tie_embeddings: not used.
        max_length: longest sequence, in tokens, ``</s>`` included.
    """

    def __init__(
        self,
        vocab_size: int,
        n_layers: int = 6,
        d_model: int = 768,
        n_heads: int = 8,
        d_ff: int = 3072,
        pre_norm: bool = False,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        layerdrop: float = 0.0,
        max_distance: int = 0,
        tie_embeddings: bool = True,
        max_length: int = 1024,
    ):
        super().__init__()
        if layerdrop or activation_dropout:
            raise ValueError("NemoDecoder: layerdrop and activation_dropout must be 0, NeMo's decoder has neither")
        self.vocab_size = vocab_size
        self.decoder = TransformerDecoderNM(
            vocab_size=vocab_size,
            hidden_size=d_model,
            num_layers=n_layers,
            inner_size=d_ff,
            num_attention_heads=n_heads,
            max_sequence_length=max_length,
            embedding_dropout=dropout,
            ffn_dropout=dropout,
            attn_layer_dropout=dropout,
            attn_score_dropout=attention_dropout,
            pre_ln=pre_norm,
        )
        self.d_model = self.encoder_dim = d_model
        self.max_length = max_length
        self.classifier = TokenClassifier(
            self.d_model, vocab_size, num_layers=1, activation="relu", log_softmax=False, dropout=0.0
        )
        self.classifier.mlp.layer0.weight = self.decoder.embedding.token_embedding.weight
        self.decoder.apply(lambda part: transformer_weights_init(part, self.d_model**-0.5))

    def forward(self, tokens: Tensor, encoded: Tensor, padding: Tensor) -> Tensor:
        """Tokens (B, U), encoder states (B, T, D) and their padding (B, T) -> logits (B, U, V)."""
        self._check_length(tokens.shape[1])
        states = self.decoder(
            input_ids=tokens,
            decoder_mask=tokens.ne(PAD).long(),
            encoder_embeddings=encoded,
            encoder_mask=(~padding).long(),
        )
        return self.classifier(hidden_states=states)

    def begin(self, encoded: Tensor, padding: Tensor) -> NemoDecoderState:
        """The state before the first token."""
        source = [_keys_values(layer.second_sub_layer, encoded) for layer in self.decoder.decoder.layers]
        return NemoDecoderState(source, (padding * _MASKED).to(encoded.dtype)[:, None, None], [], 0)

    def step(self, tokens: Tensor, state: NemoDecoderState) -> tuple[Tensor, NemoDecoderState]:
        """The last token of each hypothesis (N,) -> logits of the next (N, V), and the state after it.

        NeMo's layers would project the encoder's states anew for each token and hypothesis, and all tokens so far.
        """
        self._check_length(state.length + 1)
        x, past = self.decoder.embedding(tokens.unsqueeze(1), start_pos=state.length), []
        for number, (layer, source) in enumerate(zip(self.decoder.decoder.layers, state.source, strict=True)):
            pre = layer.pre_ln
            query = layer.layer_norm_1(x) if pre else x
            own = _keys_values(layer.first_sub_layer, query)
            if state.past:
                own = tuple(torch.cat(pair, 2) for pair in zip(state.past[number], own, strict=True))  # type: ignore[assignment]
            past.append(own)
            x = x + _attended(layer.first_sub_layer, query, own)
            x = x if pre else layer.layer_norm_1(x)
            x = x + _attended(layer.second_sub_layer, layer.layer_norm_2(x) if pre else x, source, state.mask)
            x = x if pre else layer.layer_norm_2(x)
            x = x + layer.third_sub_layer(layer.layer_norm_3(x) if pre else x)
            x = x if pre else layer.layer_norm_3(x)
        if self.decoder.decoder.final_layer_norm is not None:
            x = self.decoder.decoder.final_layer_norm(x)
        logits = self.classifier(hidden_states=x).squeeze(1)
        return logits, replace(state, past=past, length=state.length + 1)

    def select(
        self, state: NemoDecoderState, hypotheses: Tensor, utterances: Tensor | None = None
    ) -> NemoDecoderState:
        """Put hypotheses (rows of N) in another order, or leave some out; and likewise utterances (rows of B)."""
        past = [(k[hypotheses], v[hypotheses]) for k, v in state.past]
        if utterances is None:
            return replace(state, past=past)
        source = [(k[utterances], v[utterances]) for k, v in state.source]
        return replace(state, past=past, source=source, mask=state.mask[utterances])

    def _check_length(self, length: int) -> None:
        if length > self.max_length:
            raise ValueError(f"{length} tokens, the decoder's max_sequence_length is {self.max_length}")


def _keys_values(attention: Any, x: Tensor) -> KeysValues:
    """Keys, scaled as NeMo's attention scales them, and values (N, H, U, K) of states (N, U, D)."""
    heads = attention.transpose_for_scores
    return heads(attention.key_net(x)) / attention.attn_scale, heads(attention.value_net(x))


def _attended(attention: Any, x: Tensor, keys_values: KeysValues, mask: Tensor | None = None) -> Tensor:
    """NeMo's attention of single states (N, 1, D) over keys and values of N rows, or of B with N / B states each."""
    keys, values = keys_values
    rows, heads, _, size = keys.shape
    query = (attention.query_net(x) / attention.attn_scale).view(rows, -1, heads, size).transpose(1, 2)
    scores = query @ keys.transpose(2, 3)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return attention.out_projection((weights @ values).transpose(1, 2).reshape(x.shape))

"""SLAM's tasks on utterances with their texts: TLM and STM (SLAM, section 3.3), and an optional CTC loss.

Axis legend: B pairs, T frames, U tokens, V tokens of the tokenizer, D width.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nemo_speechlm.data.pretraining.batch import PairBatch
from nemo_speechlm.losses import at_least_float32
from nemo_speechlm.models.common.multitask.ctc import ctc_figure
from nemo_speechlm.models.common.multitask.figures import Figure, figures_of
from nemo_speechlm.models.common.multitask.w2v_bert import W2vBert, prediction
from nemo_speechlm.models.slam.masked_text import Corruption
from nemo_speechlm.models.slam.mismatches import Mismatches, same_text
from nemo_speechlm.modules.draws import Draws, uniform
from nemo_speechlm.modules.encoder import Frames, SpeechLMEncoder
from nemo_speechlm.modules.masking import CoveringMask
from nemo_speechlm.modules.padding import padding_mask
from nemo_speechlm.modules.text_embedding import TextEmbedding


class PairBranch(Protocol):
    """What the tasks need of a model.

    Attributes:
        tlm_speech: masks of speech.
        tlm_text: masks of text.
        tlm_whole_text: share of the pairs whose text is masked as a whole.
        word_starts: (V,) bool, the tokens that a word begins with.
    """

    encoder: SpeechLMEncoder
    w2v_bert: W2vBert
    text_embedding: TextEmbedding
    text_corruption: Corruption
    tlm_speech: CoveringMask
    tlm_text: CoveringMask
    tlm_whole_text: float
    word_starts: Tensor
    stm_head: nn.Linear
    ctc_head: "nn.Linear | SharedEmbeddingHead"

    @property
    def stm_mismatches(self) -> Mismatches:
        """Which texts the utterances get."""
        ...

    def join(
        self, speech: Tensor, speech_lengths: Tensor, text: Tensor, text_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The shared encoder over both, see :func:`~nemo_speechlm.models.slam.joined.encode_joined`."""
        ...


def tlm(
    model: PairBranch,
    frames: Frames,
    batch: PairBatch,
    speech_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
    generator: Draws = None,
) -> dict[str, Figure]:
    """Translation language modelling: codes and tokens that are masked, predicted from what is left of both.

    Args:
        model: whose encoder and classifiers.
        frames: of the batch's audio, unmasked.
        batch: pairs.
        speech_mask: (B, T) bool, frames to predict, none in padding; drawn where it is None.
        text_mask: (B, U) bool, tokens to predict; drawn where it is None.
        generator: what masks and random tokens are drawn with.
    """
    T, U = frames.states.shape[1], batch.tokens.shape[1]
    padding = padding_mask(frames.lengths, T)
    if speech_mask is None:
        speech_mask = model.tlm_speech.draw(frames.lengths, T, generator)
    if text_mask is None:
        text_mask = model.tlm_text.draw(batch.token_lengths, U, generator)
        whole = uniform((len(text_mask), 1), text_mask.device, generator) < model.tlm_whole_text
        text_mask = text_mask | (whole & ~padding_mask(batch.token_lengths, U))
    seen = model.text_corruption.apply(batch.tokens, text_mask, model.text_embedding, generator)
    masked = model.encoder.apply_mask(frames.states, speech_mask, padding)
    speech, _ = model.encoder.encode_speech(masked, padding)
    text, text_lengths = model.text_embedding(seen, batch.token_lengths)
    speech, text = model.join(speech, frames.lengths, text, text_lengths)
    codes = model.w2v_bert.codes_of(frames.states[speech_mask])
    on_speech = model.w2v_bert.code_prediction(speech[speech_mask], codes)
    on_text = prediction(model.text_embedding.logits(text[:, 1:][text_mask]), batch.tokens[text_mask])
    return {
        **figures_of("tlm_codes", "tlm_code_accuracy", on_speech),
        **figures_of("tlm_text", "tlm_text_accuracy", on_text),
    }


def stm(
    model: PairBranch,
    speech: Tensor,
    lengths: Tensor,
    batch: PairBatch,
    texts: tuple[Tensor, Tensor] | None = None,
    generator: Draws = None,
) -> dict[str, Figure]:
    """Speech-text matching: does a text belong to the speech? Told by the state of CLS.

    Args:
        model: whose encoder and head.
        speech: (B, T, D) output of the speech encoder, unmasked.
        lengths: (B,) frames.
        batch: pairs.
        texts: the text that each utterance gets, tokens (B, U) and lengths (B,); drawn where it is None.
        generator: what they are drawn with.

    Raises:
        SpeechLMError: if there is no other text in the batch.
    """
    if texts is None:
        texts = model.stm_mismatches.draw(batch, model.word_starts, generator)
    logits = at_least_float32(match_logits(model, speech, lengths, *texts))
    matches = same_text(batch, *texts)
    loss = F.binary_cross_entropy_with_logits(logits, matches.to(logits.dtype), reduction="sum")
    count = torch.tensor(len(matches), device=logits.device)
    return {"stm": Figure(loss, count), "stm_accuracy": Figure(((logits > 0) == matches).sum(), count)}


def no_mismatch(model: PairBranch, speech: Tensor, lengths: Tensor, batch: PairBatch) -> dict[str, Figure]:
    """STM of a single pair, for which there is no other text: it counts nothing.

    It goes through the model all the same: under DDP each process must have gradients of the same parameters.
    """
    logits = match_logits(model, speech, lengths, batch.tokens, batch.token_lengths)
    none = torch.tensor(0, device=logits.device)
    return {"stm": Figure(logits.sum() * 0.0, none), "stm_accuracy": Figure(none, none)}


def match_logits(model: PairBranch, speech: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> Tensor:
    """The logit (B,) of a text (B, U) belonging to speech (B, T, D), the output of the speech encoder."""
    _, text = model.join(speech, lengths, *model.text_embedding(tokens, token_lengths))
    return model.stm_head(text[:, 0]).squeeze(1)


class SharedEmbeddingHead(nn.Module):
    """CTC by the embeddings of the text's tokens, on speech as the shared encoder sees it.

    A frame that spells a token then lies near that token's embedding: both sides meet in one space before the shared
    encoder. Ours; the paper has no CTC.

    Args:
        num_tokens: V.
        d_model: D.
    """

    def __init__(self, num_tokens: int, d_model: int):
        super().__init__()
        self.blank = nn.Linear(d_model, 1)
        self.bias = nn.Parameter(torch.zeros(num_tokens))

    def logits(self, states: Tensor, embedding: TextEmbedding) -> Tensor:
        """Projected speech (B, T, D) -> (B, T, V + 1), blank last."""
        spelled = F.linear(states, embedding.tokens.weight[: embedding.num_tokens], self.bias)
        return torch.cat([spelled, self.blank(states)], 2)


def ctc_logits(model: PairBranch, speech: Tensor) -> Tensor:
    """The output of the speech encoder (B, T, D) -> logits (B, T, V + 1), blank last."""
    if isinstance(model.ctc_head, SharedEmbeddingHead):
        projected = model.encoder.shared_transformer.pre_encode(speech)  # type: ignore[union-attr, operator]
        return model.ctc_head.logits(projected, model.text_embedding)
    return model.ctc_head(speech)


def ctc(model: PairBranch, speech: Tensor, lengths: Tensor, batch: PairBatch) -> dict[str, Figure]:
    """CTC from the output of the speech encoder (B, T, D) to the text, per token; 0 where it has no path."""
    return {"ctc": ctc_figure(ctc_logits(model, speech), lengths, batch.tokens, batch.token_lengths)}

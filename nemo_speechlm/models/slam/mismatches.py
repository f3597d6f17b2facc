"""Which text an utterance gets in speech-text matching: its own, another one's, or its own with a word replaced.

Axis legend: B pairs, U tokens, V tokens of the tokenizer.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nemo_speechlm.checks import check_number, check_whole
from nemo_speechlm.data.pretraining.batch import PairBatch
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.modules.draws import Draws, uniform, whole_numbers


@dataclass(frozen=True)
class Mismatches:
    """How many of the texts do not match, and how.

    Args:
        mismatched: share of the pairs whose text is not the utterance's.
        replaced: share of these whose text is the utterance's but for one word, which is one of another text. The
            others get another text.
        replaced_after: updates of training before the first text with a word replaced: what does not know yet which
            text belongs to which speech learns nothing from them. Validation has them from the start.
    """

    mismatched: float = 0.5
    replaced: float = 0.0
    replaced_after: int = 0

    def __post_init__(self):
        check_number(
            "model.stm.mismatched", self.mismatched, above=0, below=1
        )  # both kinds must be there to tell apart
        check_number("model.stm.replaced", self.replaced, 0, 1)
        check_whole("model.stm.replaced_after", self.replaced_after)

    def at(self, update: int) -> "Mismatches":
        """Those of an update of training."""
        return replace(self, replaced=0.0) if update < self.replaced_after else self

    def draw(self, batch: PairBatch, word_starts: Tensor, generator: Draws = None) -> tuple[Tensor, Tensor]:
        """The texts (B, U) that the utterances get, and their lengths (B,).

        Args:
            batch: pairs.
            word_starts: (V,) bool, the tokens that a word begins with.
            generator: what is drawn with.

        Raises:
            SpeechLMError: if the batch has one pair only.
        """
        texts = draw_texts(batch, self.mismatched, generator)
        tokens, lengths = batch.tokens[texts], batch.token_lengths[texts]
        if not self.replaced:
            return tokens, lengths
        replaced = uniform((len(texts),), texts.device, generator) < self.replaced
        one_word, sizes = with_a_word_of(
            (batch.tokens, batch.token_lengths), (tokens, lengths), word_starts, generator
        )
        width = max(tokens.shape[1], one_word.shape[1])
        tokens, one_word = (torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (tokens, one_word))
        own = texts == torch.arange(len(texts), device=texts.device)
        replaced = replaced & ~own
        return torch.where(replaced.unsqueeze(1), one_word, tokens), torch.where(replaced, sizes, lengths)


def draw_texts(batch: PairBatch, mismatched: float, generator: Draws = None) -> Tensor:
    """Whose text each utterance of a batch gets (B,): its own, or with this share that of another one.

    Raises:
        SpeechLMError: if there is no other.
    """
    B, device = len(batch.tokens), batch.tokens.device
    if B < 2:
        where = f" ({batch.ids[0]})" if batch.ids else ""
        raise SpeechLMError(
            f"model.train_ds.pairs: a batch has one pair only{where}, and speech-text matching needs the text of "
            "another one; raise model.train_ds.pairs.batch_duration, lower model.train_ds.pairs.max_duration, or set "
            "model.tasks.stm=0"
        )
    other = whole_numbers(1, B, (B,), device, generator)
    changed = uniform((B,), device, generator) < mismatched
    return (torch.arange(B, device=device) + other * changed) % B


def same_text(batch: PairBatch, tokens: Tensor, lengths: Tensor) -> Tensor:
    """(B,) bool: where a text of ``tokens`` (B, U') and ``lengths`` (B,) reads as the batch's own does."""
    own, width = batch.tokens, max(batch.tokens.shape[1], tokens.shape[1])
    own, tokens = (torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (own, tokens))
    place = torch.arange(width, device=tokens.device)
    behind = place >= lengths.unsqueeze(1)
    return ((own == tokens) | behind).all(1) & (batch.token_lengths == lengths)


def with_a_word_of(
    texts: tuple[Tensor, Tensor],
    others: tuple[Tensor, Tensor],
    word_starts: Tensor,
    generator: Draws = None,
) -> tuple[Tensor, Tensor]:
    """Texts with one of their words, drawn at random, replaced by one of other texts.

    Args:
        texts: tokens (B, U) and lengths (B,).
        others: those that the words are taken from, one for each.
        word_starts: (V,) bool, the tokens that a word begins with; a text's first token begins one, too.
        generator: what is drawn with.

    Returns:
        their tokens, 0 where padded, and their lengths (B,).
    """
    (tokens, lengths), (other_tokens, other_lengths) = texts, others
    U = tokens.shape[1]
    begin, end = _a_word(tokens, lengths, word_starts, generator)
    first, last = _a_word(other_tokens, other_lengths, word_starts, generator)
    sizes = lengths + (last - first) - (end - begin)
    place = torch.arange(int(sizes.max()), device=tokens.device).unsqueeze(0)
    new_end = (begin + last - first).unsqueeze(1)
    behind = place + (end.unsqueeze(1) - new_end)
    inside = U + place + (first - begin).unsqueeze(1)
    source = torch.where(place < begin.unsqueeze(1), place, torch.where(place < new_end, inside, behind))
    both = torch.cat([tokens, other_tokens], 1)
    mixed = both.gather(1, source.clamp(0, both.shape[1] - 1))
    return mixed.masked_fill(place >= sizes.unsqueeze(1), 0), sizes


def _a_word(tokens: Tensor, lengths: Tensor, word_starts: Tensor, generator: Draws) -> tuple[Tensor, Tensor]:
    """Where a word of each text (B, U), drawn at random, begins and ends (B,)."""
    place = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
    starts = (word_starts[tokens] | (place == 0)) & (place < lengths.unsqueeze(1))
    draws = uniform(tokens.shape, tokens.device, generator)
    begin = draws.masked_fill(~starts, -1.0).argmax(1)
    later = starts & (place > begin.unsqueeze(1))
    end = torch.where(later, place, lengths.unsqueeze(1)).min(1).values
    return begin, end

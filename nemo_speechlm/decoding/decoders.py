"""Decoders of CTC log probabilities: greedy, beam, beam with an n-gram of tokens, beam over a lexicon.

Axis legend: B utterances, T frames, V labels without the blank; the blank is class V.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from omegaconf import DictConfig

from nemo_speechlm.errors import SpeechLMError

KINDS = ("greedy", "beam", "ngram", "lexicon")


class Decoded(NamedTuple):
    """What a decoder found in an utterance.

    Attributes:
        tokens: label ids.
        score: natural logarithm; comparable among hypotheses of one utterance and decoder only.
    """

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode.

    Args:
        kind: ``greedy``: the best label of each frame; ``beam``: NeMo's batched beam search; ``ngram``: the same with
            NeMo's n-gram model of labels; ``lexicon``: words of an ARPA model, through flashlight.
        lm: the model's file, for the latter two.
        beam_size: hypotheses kept after each frame.
        beam_threshold: those that are so much worse than the best one are dropped, too.
        beam_size_token: labels that each hypothesis is continued with (``lexicon`` only); None tries all.
        lm_weight: factor on the language model's log probabilities (alpha).
        word_score: added for each word (``lexicon``) or label (beta).
    """

    kind: str = "greedy"
    lm: str | None = None
    beam_size: int = 16
    beam_threshold: float = 20.0
    beam_size_token: int | None = None
    lm_weight: float = 1.0
    word_score: float = 0.0

    @classmethod
    def of(cls, cfg: DictConfig) -> "DecodingOptions":
        """From what a command is given (``decoding``, ``lm``, ...), checked; what is null there takes a default.

        Raises:
            SpeechLMError: naming what does not go together.
        """
        options = cls(
            cfg.decoding or cls.kind,
            cfg.lm,
            cfg.beam_size or cls.beam_size,
            cfg.beam_threshold,
            cfg.beam_size_token,
            cfg.lm_weight,
            cfg.word_score,
        )
        options.check()
        return options

    def check(self) -> None:
        """Raise unless the options go together.

        Raises:
            SpeechLMError: naming what does not.
        """
        if self.kind not in KINDS:
            raise SpeechLMError(f"decoding is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if (self.lm is not None) != (self.kind in ("ngram", "lexicon")):
            needs = "needs a language model: lm=" if self.lm is None else "takes no language model, but lm is given"
            raise SpeechLMError(f"decoding={self.kind} {needs}")


class Decoder(Protocol):
    """Turns log probabilities into label ids."""

    def decode(
        self, log_probs: Sequence[np.ndarray], options: DecodingOptions, progress: Callable[[int], object]
    ) -> list[Decoded]:
        """Decode utterances.

        Args:
            log_probs: (T, V + 1) of each.
            options: weights and beam; their kind and model are those that the decoder was made with.
            progress: called with the number of utterances that were done since it was last called.
        """
        ...


class GreedyDecoder:
    """The best label of each frame, repetitions and blanks taken out."""

    def decode(
        self, log_probs: Sequence[np.ndarray], options: DecodingOptions, progress: Callable[[int], object]
    ) -> list[Decoded]:
        """See :class:`Decoder`."""
        decoded = []
        for frames in log_probs:
            decoded.append(greedy(frames))
            progress(1)
        return decoded


def greedy(log_probs: np.ndarray) -> Decoded:
    """Greedy decoding of (T, V + 1).

    >>> greedy(np.log([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])).tokens
    [0, 0]
    """
    best = log_probs.argmax(axis=1)
    first = np.ones(len(best), dtype=bool)
    first[1:] = best[1:] != best[:-1]
    blank = log_probs.shape[1] - 1
    return Decoded(best[first & (best != blank)].tolist(), float(log_probs.max(axis=1).sum()))


def make_decoder(options: DecodingOptions, labels: Sequence[str], spell: Callable[[str], list[int]]) -> Decoder:
    """Make the decoder that options name, its language model loaded.

    Args:
        options: see there.
        labels: the V labels.
        spell: turns a word into label ids; raises an ``InputError`` where it cannot be spelled.

    Raises:
        SpeechLMError: if the options do not go together, or the model cannot be read.
    """
    options.check()
    if options.kind == "greedy":
        return GreedyDecoder()
    if options.kind == "lexicon":
        from nemo_speechlm.decoding.lexicon import LexiconDecoder  # flashlight is an extra

        assert options.lm is not None
        return LexiconDecoder(options.lm, labels, spell)
    from nemo_speechlm.decoding.fusion import FusionDecoder, load_ngram

    return FusionDecoder(len(labels), None if options.lm is None else load_ngram(options.lm, len(labels)))


def with_weights(options: DecodingOptions, lm_weight: float, word_score: float) -> DecodingOptions:
    """The options with other weights."""
    return replace(options, lm_weight=lm_weight, word_score=word_score)

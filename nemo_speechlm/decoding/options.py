"""How CTC is decoded: the kinds, their options, and what comes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from omegaconf import DictConfig

from nemo_speechlm.checks import check_number, check_whole
from nemo_speechlm.errors import SpeechLMError

KINDS = ("greedy", "beam", "ngram", "lexicon")


def words_beside(lm: str | Path) -> Path:
    """The list of a model's words, a line each, which need not be there; a model in KenLM's binary format has one."""
    return Path(f"{lm}.words")


def files_of_lm(lm: str | Path | None) -> list[Path]:
    """The files of a language model, whose content decides what is found with it: its own, and its list of words."""
    if lm is None:
        return []
    return [Path(lm), *(path for path in (words_beside(lm),) if path.is_file())]


class Decoded(NamedTuple):
    """What a decoder found in an utterance.

    Attributes:
        tokens: label ids.
        score: comparable among hypotheses of one utterance and decoder only: natural logarithms, but for the share of
            a lexicon's language model (see ``lm_weight``).
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
        lm_weight: factor on the language model's log probabilities (alpha): natural logarithms with ``ngram``,
            logarithms to the base of 10 with ``lexicon``, as KenLM gives them. 2.3 there is 1 here.
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
        """Make options from a command's config (``decoding``, ``lm``, ...); null takes the default.

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
        for key in ("beam_size", "beam_size_token"):
            if (value := getattr(self, key)) is not None:
                check_whole(key, value, 1)
        check_number("beam_threshold", self.beam_threshold, above=0)
        check_number("lm_weight", self.lm_weight)
        check_number("word_score", self.word_score)
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


def with_weights(options: DecodingOptions, lm_weight: float, word_score: float) -> DecodingOptions:
    """The options with other weights."""
    return replace(options, lm_weight=lm_weight, word_score=word_score)

"""Language model weights that are best on validation data."""

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nemo_speechlm.decoding.options import DecodingOptions, with_weights
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.error_rates import ErrorCounts, character_errors, word_errors
from nemo_speechlm.files import atomic_write
from nemo_speechlm.inference.audio_batches import Utterance
from nemo_speechlm.inference.ctc_text import CTCText

MEASURES = {"wer": word_errors, "cer": character_errors}


@dataclass(frozen=True)
class Trial:
    """Weights that were tried, and the errors with them."""

    lm_weight: float
    word_score: float
    words: ErrorCounts
    characters: ErrorCounts

    def rate(self, measure: str) -> float:
        """``wer`` or ``cer``; infinite where there is no reference."""
        rate = (self.words if measure == "wer" else self.characters).rate
        return float("inf") if rate is None else rate


def tune(
    text: CTCText,
    log_probs: Sequence[np.ndarray],
    references: Sequence[str],
    options: DecodingOptions,
    lm_weights: Sequence[float],
    word_scores: Sequence[float],
) -> list[Trial]:
    """Decode with every pair of weights; log probabilities are computed once, by the caller.

    Raises:
        SpeechLMError: if there is nothing to tune, or no reference word to tune it on.
    """
    if options.kind not in ("ngram", "lexicon"):
        raise SpeechLMError(f"decoding={options.kind} has no weights to tune; expected ngram or lexicon")
    if not any(reference.split() for reference in references):
        raise SpeechLMError("tune_on: no reference has a word, so no weights are better than others")
    pairs = list(itertools.product(lm_weights, word_scores))
    if not pairs:
        raise SpeechLMError("lm_weights and word_scores must each have a value to try")
    trials = []
    for lm_weight, word_score in tqdm(pairs, desc="Tuning", unit="pair"):
        found = text.decode(log_probs, with_weights(options, lm_weight, word_score), quiet=True)
        texts = [text.text(decoded) for decoded in found]
        words, characters = (
            reduce(add, map(count, references, texts), ErrorCounts()) for count in (word_errors, character_errors)
        )
        trials.append(Trial(lm_weight, word_score, words, characters))
    return trials


_TOUCHING = 0.1
"""Seconds that the ends of two utterances of a recording may have in common."""


def refuse_tested(held_out: Sequence[Utterance], tested: Sequence[Utterance], name: str) -> None:
    """Raise if weights would be chosen on utterances that they are tested on: the rates would be too low.

    Args:
        held_out: to tune on.
        tested: to report on.
        name: of the manifest to tune on, for the message.

    Raises:
        InputError: with how many are in both.
    """
    parts: dict[str, list[tuple[float, float]]] = {}
    for u in tested:
        parts.setdefault(str(u.path.resolve()), []).append((u.offset, u.offset + u.duration))
    both = sum(
        any(
            begin < u.offset + u.duration - _TOUCHING and u.offset < end - _TOUCHING
            for begin, end in parts.get(str(u.path.resolve()), ())
        )
        for u in held_out
    )
    if both:
        raise InputError(
            f"{both} of its {len(held_out)} utterances are in manifest, too: rates are too low where weights were "
            "chosen on what is tested; give other data to tune_on",
            name,
        )


def on_the_edge(best: Trial, lm_weights: Sequence[float], word_scores: Sequence[float]) -> str:
    """A remark if the best weights are the least or the greatest that were tried; empty if they are not."""
    remarks = [
        f"{key}={value:g} is the {'least' if value == min(tried) else 'greatest'} that was tried"
        for key, value, tried in (
            ("lm_weight", best.lm_weight, lm_weights),
            ("word_score", best.word_score, word_scores),
        )
        if len(tried) > 1 and value in (min(tried), max(tried))
    ]
    return f"{' and '.join(remarks)}; others may be better (lm_weights, word_scores)" if remarks else ""


def best_trial(trials: Sequence[Trial], measure: str = "wer") -> Trial:
    """The one with the lowest rate; among equals the first."""
    if measure not in MEASURES:
        raise SpeechLMError(f"tune_for is {measure!r}, expected one of {', '.join(MEASURES)}")
    return min(trials, key=lambda trial: trial.rate(measure))


def write_trials(path: str | Path, trials: Sequence[Trial]) -> None:
    """Write trials as a table: lm_weight, word_score, wer, cer."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["lm_weight", "word_score", "wer", "cer"])
        for trial in trials:
            rates = [f"{trial.rate(measure):.5f}" for measure in MEASURES]
            writer.writerow([trial.lm_weight, trial.word_score, *rates])

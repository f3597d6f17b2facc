"""Recognition with a CTC model's log probabilities at hand: beam search, language models, and the tuning of weights.

Axis legend: T frames, V labels without the blank.
"""

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from nemo.collections.asr.models import EncDecCTCModel
from torch.utils.data import DataLoader
from tqdm import tqdm

from nemo_speechlm.decoding.decoders import Decoded, Decoder, DecodingOptions, make_decoder, with_weights
from nemo_speechlm.decoding.tokens import labels_of, text_encoder, words_of
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.evaluation.error_rates import ErrorCounts, character_errors, word_errors
from nemo_speechlm.evaluation.recognition import AudioBatches, Utterance, autocast, check_lengths, length_batches
from nemo_speechlm.files import atomic_write

MEASURES = {"wer": word_errors, "cer": character_errors}


def log_probabilities(
    model: EncDecCTCModel,
    utterances: Sequence[Utterance],
    *,
    batch_duration: float = 120.0,
    num_workers: int = 0,
    precision: str = "float32",
) -> list[np.ndarray]:
    """The model's log probabilities of utterances, (T, V + 1) float32 each, in their order.

    Args:
        model: a CTC model, NeMo's or ours.
        utterances: what to recognize.
        batch_duration: seconds of audio in a batch, padding included.
        num_workers: processes that load audio.
        precision: ``bfloat16`` and ``float16`` run the model under autocast.

    Raises:
        InputError: if an utterance is longer than the model takes.
    """
    check_lengths(model, utterances)
    batches = length_batches([u.duration for u in utterances], batch_duration)
    dataset = AudioBatches(list(utterances), batches, int(model.cfg.get("sample_rate", 16000)))
    found: list[np.ndarray] = [np.zeros((0, 0), dtype=np.float32)] * len(utterances)
    with (
        torch.inference_mode(),
        autocast(model.device.type, precision),
        tqdm(total=len(utterances), desc="Computing probabilities", unit="utterance", smoothing=0.1) as bar,
    ):
        loader = DataLoader(dataset, batch_size=None, num_workers=num_workers)
        for batch, (audio, lengths, _, _) in zip(batches, loader, strict=True):
            log_probs, frames, _ = model.forward(
                input_signal=audio.to(model.device), input_signal_length=lengths.to(model.device)
            )
            for i, row, count in zip(batch, log_probs.float().cpu().numpy(), frames.tolist(), strict=True):
                found[i] = row[:count].copy()
            bar.update(len(batch))
    return found


@dataclass(frozen=True)
class CTCText:
    """A decoder with the labels of its model.

    Attributes:
        decoder: greedy or a beam search.
        labels: the V labels.
    """

    decoder: Decoder
    labels: list[str]

    @classmethod
    def of(cls, model: EncDecCTCModel, options: DecodingOptions) -> "CTCText":
        """Make the decoder that options name for a model."""
        labels = labels_of(model)
        return cls(make_decoder(options, labels, text_encoder(model)), labels)

    def decode(self, log_probs: Sequence[np.ndarray], options: DecodingOptions, quiet: bool = False) -> list[Decoded]:
        """Label ids of utterances."""
        total = len(log_probs)
        with tqdm(total=total, desc=f"Decoding ({options.kind})", unit="utterance", disable=quiet) as bar:
            return self.decoder.decode(log_probs, options, bar.update)

    def text(self, decoded: Decoded) -> str:
        """What label ids spell."""
        return words_of(self.labels, decoded.tokens)


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

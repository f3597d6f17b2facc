"""Word and character errors and BLEU of validation batches, summed over batches and devices."""

import math
from collections.abc import Sequence

import torch
from kaldialign import edit_distance
from sacrebleu.metrics import BLEU
from torch import Tensor

_ORDER = 4
"""Longest n-grams of BLEU."""

SIZE = 4 + 2 * _ORDER + 2
"""Numbers in a tensor of counts."""


def text_counts(references: Sequence[str], hypotheses: Sequence[str]) -> Tensor:
    """What the rates of many batches are computed from.

    Returns:
        (SIZE,) float64, to be added up: errors and words, errors and characters, matching n-grams, n-grams, lengths of
        hypotheses and references.
    """
    counts = torch.zeros(SIZE, dtype=torch.float64)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        for place, (expected, found) in enumerate(
            ((reference.split(), hypothesis.split()), (list(reference), list(" ".join(hypothesis.split()))))
        ):
            counts[2 * place] += edit_distance(expected, found)["total"]
            counts[2 * place + 1] += len(expected)
    bleu = BLEU(max_ngram_order=_ORDER).corpus_score(list(hypotheses), [list(references)])
    counts[4:] = torch.tensor([*bleu.counts, *bleu.totals, bleu.sys_len, bleu.ref_len], dtype=torch.float64)
    return counts


def error_rates(counts: Tensor) -> dict[str, float]:
    """``wer`` and ``cer`` as fractions; not numbers where no reference has a word: they are undefined then."""
    errors, words, edits, characters = counts[:4].tolist()
    return {"wer": errors / words if words else math.nan, "cer": edits / characters if characters else math.nan}


def bleu_score(counts: Tensor) -> float:
    """BLEU as sacrebleu computes it by default (13a tokens, exponential smoothing), 0 to 100."""
    numbers = [int(value) for value in counts[4:].tolist()]
    correct, total = numbers[:_ORDER], numbers[_ORDER : 2 * _ORDER]
    system, reference = numbers[2 * _ORDER :]
    return BLEU.compute_bleu(correct, total, system, reference, smooth_method="exp", max_ngram_order=_ORDER).score

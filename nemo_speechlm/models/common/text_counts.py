"""Word and character errors and BLEU of validation batches, summed over batches and devices."""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import torch
from kaldialign import edit_distance
from torch import Tensor

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU

_ORDER = 4
"""Longest n-grams of BLEU."""

SIZE = 4 + 2 * _ORDER + 2
"""Numbers in a tensor of counts."""


_TOKENIZERS = {
    "zh": ("zh",),
    "yue": ("zh",),
    "ja": ("ja-mecab", "char"),
    "ko": ("ko-mecab", "char"),
    **dict.fromkeys(("th", "lo", "km", "my", "bo"), ("char",)),
}
"""sacrebleu's tokenizers for languages whose words 13a does not find, the best first: some need more packages."""


@cache
def bleu_of(target_lang: str | None = None) -> "BLEU":
    """BLEU as training and evaluation compute it.

    Args:
        target_lang: what is written, ISO 639-1 with or without a region (``zh-CN``); decides how it is cut into words.
    """
    from sacrebleu.metrics import BLEU  # a recognizer needs none of it

    language = (target_lang or "").replace("_", "-").split("-")[0].lower()
    *better, last = _TOKENIZERS.get(language, ("13a",))
    for name in better:
        with suppress(RuntimeError):  # its packages are not installed; the signature tells what was used
            return BLEU(tokenize=name, max_ngram_order=_ORDER)
    return BLEU(tokenize=last, max_ngram_order=_ORDER)


def edit_counts(reference: str, hypothesis: str) -> tuple[int, int, int, int]:
    """Errors and words, errors and characters of a text; white space of the hypothesis is tidied first."""
    words, characters = (
        (edit_distance(expected, found)["total"], len(expected))
        for expected, found in (
            (reference.split(), hypothesis.split()),
            (list(reference), list(" ".join(hypothesis.split()))),
        )
    )
    return *words, *characters


def text_counts(references: Sequence[str], hypotheses: Sequence[str], target_lang: str | None = None) -> Tensor:
    """What the rates of many batches are computed from.

    Args:
        references: what should have been written.
        hypotheses: what was, in the same order.
        target_lang: of both; see :func:`bleu_of`.

    Returns:
        (SIZE,) float64, to be added up: errors and words, errors and characters, matching n-grams, n-grams, lengths of
        hypotheses and references.
    """
    counts = torch.zeros(SIZE, dtype=torch.float64)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        counts[:4] += torch.tensor(edit_counts(reference, hypothesis), dtype=torch.float64)
    bleu = bleu_of(target_lang).corpus_score(list(hypotheses), [list(references)])
    counts[4:] = torch.tensor([*bleu.counts, *bleu.totals, bleu.sys_len, bleu.ref_len], dtype=torch.float64)
    return counts


def error_rates(counts: Tensor) -> dict[str, float]:
    """``wer`` and ``cer`` as fractions; not numbers where no reference has a word: they are undefined then."""
    errors, words, edits, characters = counts[:4].tolist()
    return {"wer": errors / words if words else math.nan, "cer": edits / characters if characters else math.nan}


def bleu_score(counts: Tensor) -> float:
    """BLEU as sacrebleu computes it by default (exponential smoothing), 0 to 100."""
    from sacrebleu.metrics import BLEU

    numbers = [int(value) for value in counts[4:].tolist()]
    correct, total = numbers[:_ORDER], numbers[_ORDER : 2 * _ORDER]
    system, reference = numbers[2 * _ORDER :]
    return BLEU.compute_bleu(correct, total, system, reference, smooth_method="exp", max_ngram_order=_ORDER).score

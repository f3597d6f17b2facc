"""N-gram language models of a text, of words or tokens: modified Kneser-Ney smoothing (Chen and Goodman, 1999).

Counts live in sorted numpy arrays. An n-gram is stored as the index of its first n - 1 words among the shorter
n-grams, and its last word; so millions of sentences take about a minute, for any order and vocabulary.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write
from nemo_speechlm.language_models.arpa import BEGIN, END

UNKNOWN = "<UNK>"
_SPECIAL = (BEGIN, END, UNKNOWN)
BEGIN_ID, END_ID, UNKNOWN_ID = range(3)
NEVER = -99.0
"""log10 of the probability of what is never predicted."""
_DISCOUNT = 0.5
"""Where a text is too small or too regular for an estimate."""


class NGrams(NamedTuple):
    """All n-grams of one order.

    Attributes:
        words: ids, shape (N, order), sorted.
        probabilities: log10, shape (N,).
        backoffs: log10 weights of the shorter n-gram where this one is a context, shape (N,).
    """

    words: np.ndarray
    probabilities: np.ndarray
    backoffs: np.ndarray


class NGramModel(NamedTuple):
    """A back-off model.

    Attributes:
        vocabulary: words by id, ``<s>``, ``</s>`` and ``<UNK>`` first.
        orders: n-grams of length 1, 2, ...
    """

    vocabulary: list[str]
    orders: list[NGrams]

    @property
    def words(self) -> list[str]:
        """The vocabulary without its special symbols."""
        return self.vocabulary[len(_SPECIAL) :]

    def write_arpa(self, path: str | Path, unknown: str = UNKNOWN) -> None:
        """Write the model in the ARPA format, gzipped where the name ends in ``.gz``.

        Args:
            path: the file.
            unknown: how the unknown word is written. PocketSphinx reads ``<UNK>``; KenLM and NeMo ``<unk>``.
        """
        names = [unknown if word == UNKNOWN else word for word in self.vocabulary]
        with atomic_write(path) as file:
            file.write("\\data\\\n")
            file.writelines(f"ngram {n}={len(order.words)}\n" for n, order in enumerate(self.orders, start=1))
            for n, order in enumerate(self.orders, start=1):
                file.write(f"\n\\{n}-grams:\n")
                last = n == len(self.orders)
                rows = zip(order.words.tolist(), order.probabilities.tolist(), order.backoffs.tolist(), strict=True)
                for ids, probability, backoff in rows:
                    words = " ".join([names[i] for i in ids])
                    file.write(
                        f"{probability:.4f}\t{words}\n" if last else f"{probability:.4f}\t{words}\t{backoff:.4f}\n"
                    )
            file.write("\n\\end\\\n")


class _Counted(NamedTuple):
    """The n-grams of one order that are in the text, in lexicographic order of their word ids.

    Attributes:
        prefixes: where the first n - 1 words are among the n-grams one shorter, shape (N,).
        last: ids of the last words, shape (N,).
        suffixes: where the last n - 1 words are among the n-grams one shorter, shape (N,).
        occurrences: in the text, shape (N,).
        begins: whether they begin a sentence, shape (N,).
    """

    prefixes: np.ndarray
    last: np.ndarray
    suffixes: np.ndarray
    occurrences: np.ndarray
    begins: np.ndarray


def train_ngram_model(
    sentences: Iterable[Sequence[str]], order: int = 3, vocabulary_size: int | None = None, cutoffs: Sequence[int] = ()
) -> NGramModel:
    """Estimate a model with interpolated modified Kneser-Ney smoothing, stored with back-off weights.

    Args:
        sentences: words of each.
        order: length of the longest n-grams, 1 to 10.
        vocabulary_size: keep this many of the most frequent words, the others becoming ``<UNK>``.
        cutoffs: how often n-grams of length 2, 3, ... must occur to be kept; where not given, as the last one that is,
            or 1. Must not fall.

    Raises:
        InputError: if there are no words, or an argument is out of its range.
    """
    if not 1 <= order <= 10:
        raise InputError(f"n-gram order {order}, expected 1 to 10")
    cutoffs = [1, *cutoffs, *[max(cutoffs, default=1)] * order][:order]
    if cutoffs != sorted(cutoffs) or cutoffs[0] < 1:
        raise InputError(f"n-gram cutoffs {cutoffs[1:]}, expected numbers of at least 1 that do not fall")
    vocabulary, text = _to_ids(sentences, vocabulary_size)
    counted = _count(text, order, len(vocabulary))
    models: list[NGrams] = []
    lower: np.ndarray | None = None  # probabilities of all n-grams one shorter
    kept_below = np.zeros(0, dtype=np.int64)  # where each of them is among those that were kept
    words = np.zeros((1, 0), dtype=np.int64)
    for n, (grams, cutoff) in enumerate(zip(counted, cutoffs, strict=True), start=1):
        probabilities = _interpolated(grams, _smoothing_counts(counted, n), lower)
        keep = grams.occurrences >= cutoff
        log = np.log10(np.maximum(probabilities[keep], 1e-30))
        if n == 1:
            log[BEGIN_ID] = NEVER
        else:
            set_backoffs(models[-1], kept_below[grams.prefixes[keep]], kept_below[grams.suffixes[keep]], log)
        words = np.concatenate([words[grams.prefixes], grams.last[:, None]], axis=1)
        models.append(NGrams(words[keep], log, np.zeros(len(log))))
        lower, kept_below = probabilities, np.cumsum(keep) - 1
    return NGramModel(vocabulary, models)


def _to_ids(sentences: Iterable[Sequence[str]], vocabulary_size: int | None) -> tuple[list[str], np.ndarray]:
    """Words by id, and the text as ids with ``<s>`` and ``</s>`` around each sentence."""
    ids: dict[str, int] = {word: i for i, word in enumerate(_SPECIAL)}
    blocks = [
        np.array(
            [BEGIN_ID, *(UNKNOWN_ID if word == "<unk>" else ids.setdefault(word, len(ids)) for word in words), END_ID],
            dtype=np.int64,
        )
        for words in sentences
        if words
    ]
    if not blocks:
        raise InputError("no words to make a language model of")
    text = np.concatenate(blocks)
    frequency = np.bincount(text, minlength=len(ids))[len(_SPECIAL) :]
    kept = np.argsort(-frequency, kind="stable")[:vocabulary_size]
    mapping = np.full(len(ids), UNKNOWN_ID, dtype=np.int64)
    mapping[: len(_SPECIAL)] = range(len(_SPECIAL))
    mapping[kept + len(_SPECIAL)] = np.arange(len(kept)) + len(_SPECIAL)
    names = list(ids)
    return [*_SPECIAL, *(names[i + len(_SPECIAL)] for i in kept)], mapping[text]


def _count(text: np.ndarray, order: int, size: int) -> list[_Counted]:
    """The n-grams of each order; of length one, the whole vocabulary."""
    nothing, ids = np.zeros(size, dtype=np.int64), np.arange(size)
    occurrences = np.maximum(np.bincount(text, minlength=size), 1)
    counted = [_Counted(nothing, ids, nothing, occurrences, ids == BEGIN_ID)]
    places = text  # of the n-gram that starts at each word, among all of its length; -1: the sentence ends before it
    for n in range(2, order + 1):
        following = text[n - 1 :]
        starts = np.flatnonzero((places[: len(following)] >= 0) & (following != BEGIN_ID))
        keys = places[starts] * size + following[starts]
        unique, first, inverse, occurrences = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        prefixes = unique // size
        suffixes = places[starts[first] + 1]
        counted.append(_Counted(prefixes, unique % size, suffixes, occurrences, counted[-1].begins[prefixes]))
        places = np.full(len(following), -1, dtype=np.int64)
        places[starts] = inverse
    return counted


def _smoothing_counts(counted: list[_Counted], n: int) -> np.ndarray:
    """The counts that are smoothed, (N,).

    N-grams that are the longest or begin a sentence count their occurrences; others count the words that precede them.
    """
    grams = counted[n - 1]
    if n == len(counted):
        smoothed = grams.occurrences.astype(np.float64)
    else:
        smoothed = np.bincount(counted[n].suffixes, minlength=len(grams.last)).astype(np.float64)
        if n > 1:
            smoothed[grams.begins] = grams.occurrences[grams.begins]
    if n == 1:
        smoothed[BEGIN_ID] = 0
    return smoothed


def _interpolated(grams: _Counted, counts: np.ndarray, lower: np.ndarray | None) -> np.ndarray:
    """Probability of each n-gram's last word, interpolated with that of the shorter n-gram."""
    discounts = _discounts(counts)[np.minimum(counts, 3).astype(np.int64)]
    totals = np.bincount(grams.prefixes, counts)
    freed = np.bincount(grams.prefixes, discounts) / np.maximum(totals, 1)
    if lower is not None:
        below = lower[grams.suffixes]
    else:
        below = np.full(len(counts), 1 / (len(counts) - 1))  # all words but <s>
        below[BEGIN_ID] = 0
    return (counts - discounts) / totals[grams.prefixes] + freed[grams.prefixes] * below


def _discounts(counts: np.ndarray) -> np.ndarray:
    """The discounts of counts 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0, *[_DISCOUNT] * 3])
    y = n1 / (n1 + 2 * n2)
    estimates = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.where((estimates > 0) & (estimates < [1, 1, 2, 3]), estimates, [0, *[_DISCOUNT] * 3])


def set_backoffs(contexts: NGrams, prefixes: np.ndarray, suffixes: np.ndarray, log: np.ndarray) -> None:
    """Give each context of the n-grams that are kept the weight that makes all its continuations sum up to one.

    Args:
        contexts: n-grams one shorter, those that are kept.
        prefixes: where the first words of each n-gram are among them, shape (N,).
        suffixes: where its last words are, shape (N,).
        log: log10 of its probability, shape (N,).
    """
    seen = np.bincount(prefixes, 10.0**log, len(contexts.words))
    seen_below = np.bincount(prefixes, 10.0 ** contexts.probabilities[suffixes], len(contexts.words))
    contexts.backoffs[:] = np.log10(np.maximum(1 - seen, 1e-9) / np.maximum(1 - seen_below, 1e-9))

"""Word n-gram language models of a text, for decoding speech: modified Kneser-Ney smoothing (Chen and Goodman, 1999).

Counts live in sorted numpy arrays, an n-gram being one 64-bit key, so that millions of sentences take seconds.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write

BEGIN, END, UNKNOWN = "<s>", "</s>", "<UNK>"
_SPECIAL = (BEGIN, END, UNKNOWN)
_BEGIN, _END, _UNKNOWN = range(3)
_NEVER = -99.0
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

    def write_arpa(self, path: str | Path) -> None:
        """Write the model in the ARPA format."""
        with atomic_write(path) as file:
            file.write("\\data\\\n")
            file.writelines(f"ngram {n}={len(order.words)}\n" for n, order in enumerate(self.orders, start=1))
            for n, order in enumerate(self.orders, start=1):
                file.write(f"\n\\{n}-grams:\n")
                last = n == len(self.orders)
                rows = zip(order.words.tolist(), order.probabilities.tolist(), order.backoffs.tolist(), strict=True)
                for ids, probability, backoff in rows:
                    words = " ".join([self.vocabulary[i] for i in ids])
                    file.write(
                        f"{probability:.4f}\t{words}\n" if last else f"{probability:.4f}\t{words}\t{backoff:.4f}\n"
                    )
            file.write("\n\\end\\\n")


def train_ngram_model(
    sentences: Iterable[Sequence[str]], order: int = 3, vocabulary_size: int | None = None, cutoffs: Sequence[int] = ()
) -> NGramModel:
    """Estimate a model with interpolated modified Kneser-Ney smoothing, stored with back-off weights.

    Args:
        sentences: words of each.
        order: length of the longest n-grams, 1 to 3.
        vocabulary_size: keep this many of the most frequent words, the others becoming ``<UNK>``.
        cutoffs: how often n-grams of length 2, 3, ... must occur to be kept; 1 where not given. Must not fall.

    Raises:
        InputError: if there are no words, or an argument is out of its range.
    """
    cutoffs = [1, *cutoffs, *[max(cutoffs, default=1)] * order][:order]
    if not 1 <= order <= 3:
        raise InputError(f"n-gram order {order}, expected 1, 2 or 3")
    if cutoffs != sorted(cutoffs) or cutoffs[0] < 1:
        raise InputError(f"n-gram cutoffs {cutoffs[1:]}, expected numbers of at least 1 that do not fall")
    vocabulary, text = _to_ids(sentences, vocabulary_size)
    size = len(vocabulary)
    if size**order >= 2**63:
        raise InputError(f"a vocabulary of {size} words is too large for {order}-grams; give vocabulary_size")
    counts = [_count(text, n, size) for n in range(1, order + 1)]
    models: list[NGrams] = []
    lower: np.ndarray | None = None  # probabilities of all n-grams one shorter
    for n in range(1, order + 1):
        keys, occurrences = counts[n - 1]
        smoothed = _smoothing_counts(counts, n, size)
        probabilities = _interpolated(keys, smoothed, n, size, counts[n - 2][0] if n > 1 else None, lower)
        keep = occurrences >= cutoffs[n - 1]
        kept, log = keys[keep], np.log10(np.maximum(probabilities[keep], 1e-30))
        if n == 1:
            log[_BEGIN] = _NEVER
        else:
            _set_backoffs(models[-1], kept, log, size)
        models.append(NGrams(_split(kept, n, size), log, np.zeros(len(kept))))
        lower = probabilities
    return NGramModel(vocabulary, models)


def _to_ids(sentences: Iterable[Sequence[str]], vocabulary_size: int | None) -> tuple[list[str], np.ndarray]:
    """Words by id, and the text as ids with ``<s>`` and ``</s>`` around each sentence."""
    ids: dict[str, int] = {word: i for i, word in enumerate(_SPECIAL)}
    blocks = [
        np.array([_BEGIN, *(ids.setdefault(word, len(ids)) for word in words), _END], dtype=np.int64)
        for words in sentences
        if words
    ]
    if not blocks:
        raise InputError("no words to make a language model of")
    text = np.concatenate(blocks)
    frequency = np.bincount(text, minlength=len(ids))[len(_SPECIAL) :]
    kept = np.argsort(-frequency, kind="stable")[:vocabulary_size]
    mapping = np.full(len(ids), _UNKNOWN, dtype=np.int64)
    mapping[: len(_SPECIAL)] = range(len(_SPECIAL))
    mapping[kept + len(_SPECIAL)] = np.arange(len(kept)) + len(_SPECIAL)
    names = list(ids)
    return [*_SPECIAL, *(names[i + len(_SPECIAL)] for i in kept)], mapping[text]


def _count(text: np.ndarray, n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys of the n-grams that are in the text (all words for n = 1), sorted, and how often each occurs."""
    if n == 1:
        return np.arange(size), np.maximum(np.bincount(text, minlength=size), 1)
    keys = text[: len(text) - n + 1].copy()
    whole = np.ones(len(keys), dtype=bool)
    for i in range(1, n):
        following = text[i : len(text) - n + 1 + i]
        keys = keys * size + following
        whole &= following != _BEGIN  # not across sentences
    return np.unique(keys[whole], return_counts=True)


def _smoothing_counts(counts: list[tuple[np.ndarray, np.ndarray]], n: int, size: int) -> np.ndarray:
    """Occurrences for the longest n-grams and those that begin a sentence, for the others how many words precede."""
    keys, occurrences = counts[n - 1]
    if n == len(counts):
        smoothed = occurrences.astype(np.float64)
    else:
        longer = counts[n][0] % size**n
        smoothed = np.bincount(np.searchsorted(keys, longer), minlength=len(keys)).astype(np.float64)
        if n > 1:
            first = keys // size ** (n - 1) == _BEGIN
            smoothed[first] = occurrences[first]
    if n == 1:
        smoothed[_BEGIN] = 0
    return smoothed


def _interpolated(
    keys: np.ndarray,
    counts: np.ndarray,
    n: int,
    size: int,
    lower_keys: np.ndarray | None,
    lower: np.ndarray | None,
) -> np.ndarray:
    """Probability of each n-gram's last word, interpolated with that of the shorter n-gram."""
    discounts = _discounts(counts)[np.minimum(counts, 3).astype(np.int64)]
    contexts, inverse = np.unique(keys // size, return_inverse=True)
    totals = np.bincount(inverse, counts, len(contexts))
    freed = np.bincount(inverse, discounts, len(contexts)) / totals
    if lower is None or lower_keys is None:
        below = np.full(len(keys), 1 / (size - 1))  # all words but <s>
        below[_BEGIN] = 0
    else:
        below = lower[np.searchsorted(lower_keys, keys % size ** (n - 1))]
    return (counts - discounts) / totals[inverse] + freed[inverse] * below


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from counts of 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (int((counts == c).sum()) for c in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0, *[_DISCOUNT] * 3])
    y = n1 / (n1 + 2 * n2)
    estimates = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.where((estimates > 0) & (estimates < [1, 1, 2, 3]), estimates, [0, *[_DISCOUNT] * 3])


def _set_backoffs(contexts: NGrams, keys: np.ndarray, log: np.ndarray, size: int) -> None:
    """Give each context of the n-grams that are kept the weight that makes all its continuations sum up to one."""
    order = contexts.words.shape[1]
    context_keys = _join(contexts.words, size)
    position = np.searchsorted(context_keys, keys // size)
    below = contexts.probabilities[np.searchsorted(context_keys, keys % size**order)]
    seen = np.bincount(position, 10.0**log, len(context_keys))
    seen_below = np.bincount(position, 10.0**below, len(context_keys))
    contexts.backoffs[:] = np.log10(np.maximum(1 - seen, 1e-9) / np.maximum(1 - seen_below, 1e-9))


def _join(words: np.ndarray, size: int) -> np.ndarray:
    keys = words[:, 0].copy()
    for column in words.T[1:]:
        keys = keys * size + column
    return keys


def _split(keys: np.ndarray, n: int, size: int) -> np.ndarray:
    return np.stack([keys // size ** (n - 1 - i) % size for i in range(n)], axis=1)

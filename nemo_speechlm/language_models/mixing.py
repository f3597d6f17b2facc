"""A back-off model mixed with one of a new domain's text, as SRILM's ``ngram -mix-lm`` and MITLM's ``LI`` do it.

After each history, the mixed model gives a word the mean of what two models give it, one of them with a weight. A text
of hundreds of sentences is heard that way beside one of millions, where counted together it is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.language_models.kneser_ney import (
    BEGIN_ID,
    END_ID,
    NEVER,
    NGramModel,
    NGrams,
    set_backoffs,
    train_ngram_model,
)

_UNSEEN = -np.inf
"""log10 of the probability of a word that a model does not know."""
_FOLDS = 10
_NEAREST = 1e-3
"""A weight that is found is so far from 0 and 1 at least: each model knows words that the other does not."""


def mixed(model: NGramModel, other: NGramModel, weight: float) -> NGramModel:
    """The linear mixture of two models.

    It holds the n-grams of both. Their probabilities are the mixed ones; other n-grams back off, so what is between is
    an approximation, as in the tools named above.

    Args:
        model: of as many orders as ``other``. Both must have the shorter parts of each n-gram, as those of
            :func:`~nemo_speechlm.language_models.kneser_ney.train_ngram_model` have.
        other: the one that the weight is of.
        weight: above 0 and below 1.

    Raises:
        InputError: if the weight or the number of orders does not fit.
    """
    if not 0 < weight < 1:
        raise InputError(f"the weight of a mixed language model is {weight}, expected a number above 0 and below 1")
    if len(model.orders) != len(other.orders):
        raise InputError(f"n-grams of length {len(model.orders)} cannot be mixed with those of {len(other.orders)}")
    known = set(model.vocabulary)
    vocabulary = [*model.vocabulary, *(word for word in other.words if word not in known)]
    sides = [(_Index(side, vocabulary), share) for side, share in ((model, 1 - weight), (other, weight))]
    union, orders = _Places(len(vocabulary)), list[NGrams]()
    for n in range(1, len(model.orders) + 1):
        rows = np.unique(np.concatenate([side.rows(n) for side, _ in sides]), axis=0)
        prefixes, suffixes = union.find(rows[:, :-1]), union.find(rows[:, 1:])
        union.add(prefixes * len(vocabulary) + rows[:, -1])
        log = np.log10(sum(share * 10.0 ** side.log10(rows) for side, share in sides))
        if n == 1:
            log[BEGIN_ID] = NEVER
        else:
            set_backoffs(orders[-1], prefixes, suffixes, log)
        orders.append(NGrams(rows, log, np.zeros(len(rows))))
    return NGramModel(vocabulary, orders)


@dataclass(frozen=True)
class Mixture:
    """How a weight was chosen.

    Attributes:
        weight: of the new domain's model.
        words: how many left-out words, and ends of sentences, it was chosen on; those that no model knew are not.
        before: perplexity of those that the first model knows, by it alone.
        after: of the same, by the mixture.
    """

    weight: float
    words: int
    before: float
    after: float


def best_weight(model: NGramModel, sentences: Sequence[Sequence[str]], folds: int = _FOLDS) -> Mixture:
    """The weight with which a model of these sentences, mixed into another, predicts sentences of their kind best.

    Each tenth of the sentences is predicted by a model of the others; the weight is the likeliest for all of them
    (expectation and maximization).

    Args:
        model: the one that will be mixed with a model of all the sentences.
        sentences: words of each.
        folds: parts, at most as many as there are sentences.

    Raises:
        InputError: if there are fewer than two sentences with words, or no model knows a word of those left out.
    """
    sentences = [words for words in sentences if words]
    if len(sentences) < 2:
        raise InputError(
            f"{len(sentences)} sentences to mix a language model for; to choose a weight takes two at least"
        )
    folds = min(folds, len(sentences))
    order, whole = len(model.orders), _Index(model, model.vocabulary)
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    for fold in range(folds):
        part = train_ngram_model([words for i, words in enumerate(sentences) if i % folds != fold], order)
        left_out = sentences[fold::folds]
        first.append(_predicted(whole, left_out))
        second.append(_predicted(_Index(part, part.vocabulary), left_out))
    own, new = (10.0 ** np.concatenate(side) for side in (first, second))
    known = (own > 0) | (new > 0)
    own, new = own[known], new[known]
    if not len(own):
        raise InputError("no word of the text to mix a language model for is known")
    weight = 0.5
    for _ in range(200):
        before, share = weight, weight * new / (weight * new + (1 - weight) * own)
        weight = float(np.clip(share.mean(), _NEAREST, 1 - _NEAREST))
        if abs(weight - before) < 1e-6:
            break
    both = own > 0
    perplexity = [
        float(10 ** -np.log10(chance[both]).mean()) if both.any() else float("nan")
        for chance in (own, weight * new + (1 - weight) * own)
    ]
    return Mixture(weight, len(own), *perplexity)


def _predicted(index: "_Index", sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """log10 of what a model gives each word of sentences, and their ends, (N,)."""
    ids, order = index.ids, index.order
    by_length: list[list[list[int]]] = [[] for _ in range(order)]
    for words in sentences:
        text = [BEGIN_ID, *(ids.get(word, -1) for word in words), END_ID]
        for end in range(2, len(text) + 1):
            gram = text[max(0, end - order) : end]
            by_length[len(gram) - 1].append(gram)
    return np.concatenate(
        [index.log10(np.array(grams, dtype=np.int64).reshape(-1, n)) for n, grams in enumerate(by_length, start=1)]
    )


class _Places:
    """Where n-grams stand, order by order, in lexicographic order of their ids.

    Args:
        size: of the vocabulary.
    """

    def __init__(self, size: int):
        self._size = size
        self._keys: list[np.ndarray] = []  # of each order: the place of the first words times size, plus the last word

    def add(self, keys: np.ndarray) -> None:
        """The next order, (N,), sorted."""
        self._keys.append(keys)

    def find(self, rows: np.ndarray) -> np.ndarray:
        """The place of each n-gram (N, n) among those of its order; -1: it is not there; 0 for those of no words."""
        places = np.zeros(len(rows), dtype=np.int64)
        for keys, words in zip(self._keys, rows.T, strict=False):
            wanted = np.where((places < 0) | (words < 0), -1, places * self._size + words)
            found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            places = np.where(keys[found] == wanted, found, -1)
        return places


class _Index:
    """A model's n-grams in the ids of a larger vocabulary."""

    def __init__(self, model: NGramModel, vocabulary: Sequence[str]):
        self.ids = {word: i for i, word in enumerate(vocabulary)}
        self.order = len(model.orders)
        mapping = np.array([self.ids[word] for word in model.vocabulary], dtype=np.int64)
        self._places = _Places(len(vocabulary))
        self._orders: list[NGrams] = []
        for order in model.orders:
            rows = mapping[order.words]
            sorting = np.lexsort(rows.T[::-1])
            rows = rows[sorting]
            self._places.add(self._places.find(rows[:, :-1]) * len(vocabulary) + rows[:, -1])
            self._orders.append(NGrams(rows, order.probabilities[sorting], order.backoffs[sorting]))

    def rows(self, n: int) -> np.ndarray:
        """The n-grams of one order, (N, n)."""
        return self._orders[n - 1].words

    def log10(self, rows: np.ndarray) -> np.ndarray:
        """log10 of the probability of the last word of each row (N, n) after the others, with back-off."""
        n = rows.shape[1]
        if n == 0:
            return np.full(len(rows), _UNSEEN)
        places, order = self._places.find(rows), self._orders[n - 1]
        found = places >= 0
        log = np.empty(len(rows))
        log[found] = order.probabilities[places[found]]
        missing = rows[~found]
        log[~found] = self.log10(missing[:, 1:]) + self._backoffs(missing[:, :-1])
        return log

    def _backoffs(self, contexts: np.ndarray) -> np.ndarray:
        if contexts.shape[1] == 0:
            return np.zeros(len(contexts))
        places = self._places.find(contexts)
        return np.where(places >= 0, self._orders[contexts.shape[1] - 1].backoffs[places], 0.0)

"""The model against a slow plain version, and the sums that every model must keep."""

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError
from nemo_speechlm.language_models.kneser_ney import BEGIN, END, UNKNOWN, train_ngram_model

TEXT = [
    line.split()
    for line in """the cat sat on the mat
the dog sat on the cat
a dog saw the cat and the dog saw a mat
the cat saw a dog
on the mat the dog sat
a cat and a dog sat and saw""".splitlines()
]


def read_arpa(path):
    """{n-gram: (log10 probability, back-off weight)}."""
    grams, order = {}, 0
    for line in path.read_text().splitlines():
        if line.startswith("\\") and line.endswith("-grams:"):
            order = int(line[1])
        elif order and line and not line.startswith("\\"):
            fields = line.split("\t")
            grams[tuple(fields[1].split())] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)
    return grams


def probability(grams, context, word):
    """Of a word behind a context, as a decoder looks it up."""
    if (*context, word) in grams:
        return 10 ** grams[(*context, word)][0]
    backoff = 10 ** grams[context][1] if context in grams else 1.0
    return backoff * probability(grams, context[1:], word)


def plain_kneser_ney(sentences, order, discounts):
    """Interpolated, straight from the definition; returns p(word, context)."""
    padded = [[BEGIN, *words, END] for words in sentences]
    raw = [Counter(tuple(s[i : i + n]) for s in padded for i in range(len(s) - n + 1)) for n in range(1, order + 1)]
    vocabulary = {word for s in padded for word in s[1:]} | {UNKNOWN}
    counts = {}
    for n in range(1, order + 1):
        for gram, count in raw[n - 1].items():
            if n < order and gram[0] != BEGIN:
                count = sum(longer[1:] == gram for longer in raw[n])
            counts[gram] = 0 if gram == (BEGIN,) else count
    table = defaultdict(dict)
    for gram, count in counts.items():
        table[gram[:-1]][gram[-1]] = count

    def p(word, context):
        seen = table.get(context, {})
        total = sum(seen.values())
        lower = p(word, context[1:]) if context else 1 / len(vocabulary)
        if not total:
            return lower
        d = [discounts(len(context) + 1)[min(c, 3)] for c in seen.values()]
        count = seen.get(word, 0)
        return max(count - discounts(len(context) + 1)[min(count, 3)], 0) / total + sum(d) / total * lower

    return p, vocabulary


def test_equals_the_definition(tmp_path):
    # this text gives no estimate of the discounts at any order but the second
    model = train_ngram_model(TEXT, order=3)
    model.write_arpa(tmp_path / "lm.arpa")
    grams = read_arpa(tmp_path / "lm.arpa")
    half = [0, 0.5, 0.5, 0.5]
    pairs = Counter()
    padded = [[BEGIN, *words, END] for words in TEXT]
    triples = {tuple(s[i : i + 3]) for s in padded for i in range(len(s) - 2)}
    for s in padded:
        pairs.update(pairwise(s))
    smoothed = [c if g[0] == BEGIN else sum(t[1:] == g for t in triples) for g, c in pairs.items()]
    n = [smoothed.count(i) for i in range(5)]
    y = n[1] / (n[1] + 2 * n[2])
    estimated = [0, *(i - (i + 1) * y * n[i + 1] / n[i] if n[i] and n[i + 1] else 0.5 for i in (1, 2, 3))]
    p, vocabulary = plain_kneser_ney(TEXT, 3, lambda order: estimated if order == 2 and all(n[1:]) else half)
    for context in [(), ("the",), (BEGIN,), ("the", "cat"), (BEGIN, "a"), ("mat", "dog")]:
        for word in vocabulary:
            if word in ("unseen", UNKNOWN):
                continue
            found = probability(grams, context, word)
            if (*context, word) in grams or (len(context) < 2):
                assert found == pytest.approx(p(word, context), rel=2e-3), (context, word)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8), min_size=1, max_size=30),
    st.integers(1, 5),
    st.sampled_from([None, 2, 5]),
    st.sampled_from([(), (1, 2), (2, 2)]),
)
def test_probabilities_sum_up_to_one_in_every_context(tmp_path_factory, sentences, order, size, cutoffs):
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    model = train_ngram_model(sentences, order, size, cutoffs)
    model.write_arpa(path)
    grams = read_arpa(path)
    assert [len(o.words) for o in model.orders] == [sum(len(g) == n for g in grams) for n in range(1, order + 1)]
    words = [word for word in model.vocabulary if word != BEGIN]
    contexts = {(), *(gram for gram in grams if len(gram) < order and gram[-1] != END)}
    for context in contexts:
        assert sum(probability(grams, context, word) for word in words) == pytest.approx(1, abs=0.01), context
    assert all(np.isfinite(o.backoffs).all() for o in model.orders)


def test_an_order_beyond_the_longest_sentence(tmp_path):
    model = train_ngram_model([["a"], ["b"]], order=6)
    assert [len(order.words) for order in model.orders] == [5, 4, 2, 0, 0, 0]
    model.write_arpa(tmp_path / "lm.arpa")
    assert probability(read_arpa(tmp_path / "lm.arpa"), (BEGIN,), "a") == pytest.approx(0.5, abs=0.2)


def test_the_most_frequent_words_are_kept():
    model = train_ngram_model([["b", "a", "c"], ["b", "a"], ["b"]], order=2, vocabulary_size=2)
    assert model.words == ["b", "a"]
    assert model.vocabulary[:3] == [BEGIN, END, UNKNOWN]


def test_likely_sentences_are_likely(tmp_path):
    train_ngram_model(TEXT, 2).write_arpa(tmp_path / "lm.arpa")
    grams = read_arpa(tmp_path / "lm.arpa")
    assert probability(grams, ("the",), "cat") > 4 * probability(grams, ("the",), "on")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[]], 2), "no words"),
        ((TEXT, 11), "order 11"),
        ((TEXT, 3, None, (2, 1)), "cutoffs"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        train_ngram_model(*arguments)

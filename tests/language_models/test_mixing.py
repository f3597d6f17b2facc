"""Mixtures of n-gram models, against both models looked up word by word."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.language_models.arpa import BEGIN, END, ArpaModel
from nemo_speechlm.language_models.builders import NGramOptions, make_mixed_arpa
from nemo_speechlm.language_models.kneser_ney import train_ngram_model
from nemo_speechlm.language_models.mixing import best_weight, mixed

OLD = [text.split() for text in ("the cat sat", "the dog sat on the cat", "a dog saw the cat", "a cat and a dog sat")]
NEW = [
    text.split()
    for text in ("press the key", "press the star", "the key and the star", "press a key", "press the dog")
]


def read(model, path):
    model.write_arpa(path, "<unk>")
    return ArpaModel(path)


def chance(model, word, context):
    return 10 ** model.log10(word, context) if word in model else 0.0


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("weight", [0.1, 0.7])
def test_n_grams_of_both_have_the_mean_of_both(tmp_path, order, weight):
    models = [train_ngram_model(text, order) for text in (OLD, NEW)]
    old, new = (read(model, tmp_path / f"{i}.arpa") for i, model in enumerate(models))
    both = mixed(*models, weight)
    told = read(both, tmp_path / "mixed.arpa")
    assert set(both.words) == {word for words in (*OLD, *NEW) for word in words}
    for grams in both.orders:
        for ids in grams.words.tolist():
            *context, word = (both.vocabulary[i].replace("<UNK>", "<unk>") for i in ids)
            if word != BEGIN:
                expected = (1 - weight) * chance(old, word, context) + weight * chance(new, word, context)
                assert chance(told, word, context) == pytest.approx(expected, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4), min_size=2, max_size=6),
    st.lists(st.lists(st.sampled_from("cdefg"), min_size=1, max_size=4), min_size=2, max_size=6),
    st.floats(0.05, 0.95),
)
def test_what_follows_each_history_sums_up_to_one(tmp_path_factory, old, new, weight):
    both = mixed(train_ngram_model(old, 3), train_ngram_model(new, 3), weight)
    model = read(both, tmp_path_factory.mktemp("lm") / "lm.arpa")
    words = [*both.words, END, "<unk>"]
    for history in ([], [BEGIN], *([BEGIN, word] for word in both.words), *map(list, product(both.words, repeat=2))):
        assert sum(chance(model, word, history) for word in words) == pytest.approx(1, abs=2e-3)


def test_the_weight_is_the_likeliest_for_what_is_left_out(tmp_path):
    """Parts of the new text, each predicted by a model of the other parts, with weights on a grid."""
    order, folds = 2, 3
    model = train_ngram_model(OLD, order)
    found = best_weight(model, NEW, folds)
    old = read(model, tmp_path / "old.arpa")
    pairs = []
    for fold in range(folds):
        rest = [words for i, words in enumerate(NEW) if i % folds != fold]
        new = read(train_ngram_model(rest, order), tmp_path / f"{fold}.arpa")
        for words in NEW[fold::folds]:
            text = [BEGIN, *words, END]
            pairs += [
                (chance(old, word, text[:i]), chance(new, word, text[:i])) for i, word in enumerate(text[1:], start=1)
            ]
    pairs = np.array([pair for pair in pairs if any(pair)])
    grid = np.linspace(0.01, 0.99, 99)
    likelihood = [np.log(pairs @ [1 - weight, weight]).sum() for weight in grid]
    assert found.weight == pytest.approx(grid[int(np.argmax(likelihood))], abs=0.011)
    assert found.words == len(pairs)
    known = pairs[pairs[:, 0] > 0]
    assert found.before == pytest.approx(np.exp(-np.log(known[:, 0]).mean()), rel=1e-3)
    assert found.after == pytest.approx(np.exp(-np.log(known @ [1 - found.weight, found.weight]).mean()), rel=1e-3)


def test_a_model_of_the_same_kind_of_text_keeps_its_weight():
    same = best_weight(train_ngram_model(OLD * 5, 3), OLD[:2])
    assert same.weight < 0.5 < best_weight(train_ngram_model(OLD * 5, 3), NEW).weight


def test_files(tmp_path):
    chosen = make_mixed_arpa(OLD, NEW, tmp_path / "lm.arpa.gz", NGramOptions(2, vocabulary_size=3))
    model = ArpaModel(tmp_path / "lm.arpa.gz")
    assert "press" in model, "all words of the new domain are kept"
    assert "saw" not in model, "of the others the most frequent ones"
    assert 0 < chosen.weight < 1
    given = make_mixed_arpa(OLD, NEW[:1], tmp_path / "given.arpa", NGramOptions(2), 0.25)
    assert given.weight == 0.25
    assert math.isnan(given.before)
    with pytest.raises(SpeechLMError, match="builder is kenlm"):
        make_mixed_arpa(OLD, NEW, tmp_path / "lm.arpa", NGramOptions(2, builder="kenlm"))


def test_what_cannot_be_mixed():
    model = train_ngram_model(OLD, 2)
    for weight in (0, 1, -0.5, math.nan):
        with pytest.raises(InputError, match="above 0 and below 1"):
            mixed(model, model, weight)
    with pytest.raises(InputError, match="length 2 cannot be mixed with those of 3"):
        mixed(model, train_ngram_model(NEW, 3), 0.5)
    with pytest.raises(InputError, match="1 sentences to mix"):
        best_weight(model, [["a"], []])

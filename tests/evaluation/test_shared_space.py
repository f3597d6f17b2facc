from pathlib import Path

import numpy as np
import pytest

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.shared_space import Example, best_threshold, measure, with_a_word_replaced, word_places

LABELS = ["<unk>", "▁a", "b", "▁c", "d", "▁e", "f"]
WORDS = {"ab": [1, 2], "cd": [3, 4], "ef": [5, 6], "cdd": [3, 4, 4], "a": [1]}
TEXTS = ["ab cd", "cd ab", "ef", "a", "ab ab cd", "cdd", "ef a ab"]
EXAMPLES = [Example(Path(text), text) for text in TEXTS]


class Oracle:
    """Knows what is said; ``deaf``: goes by the first of the texts, and by the commonest token."""

    labels = LABELS

    def __init__(self, deaf=False):
        self.deaf = deaf

    def tokens(self, text):
        return [token for word in text.split() for token in WORDS[word]]

    def speech(self, example):
        return example.text

    def scores(self, speech, texts):
        return [0.0 if self.deaf else 1.0 if text == self.tokens(speech) else -1.0 for text in texts]

    def guesses(self, speech, tokens, masked):
        said = [1] * 9 if self.deaf else [*self.tokens(speech), *[0] * 9]
        return [said[place] for place in masked]


def test_who_knows_all():
    found = measure(Oracle(), EXAMPLES, candidates=4)
    other = found.pop("masked_word_other_speech")
    assert found.pop("word_replaced_other_speech").value == 0, "with another's speech both texts are as wrong"
    assert {share.value for share in found.values()} == {1.0}
    assert other.value < 0.7
    assert found["masked_text"].of == sum(len(Oracle().tokens(text)) for text in TEXTS)
    assert found["matching_accuracy"].of == 2 * len(TEXTS)
    assert found["masked_word"].of == other.of


@pytest.mark.parametrize("bias", [-5.0, -0.75, 0.0, 3.0])
def test_who_says_no_too_often_is_right_with_another_threshold(bias):
    class Biased(Oracle):
        def scores(self, speech, texts):
            return [score + bias for score in super().scores(speech, texts)]

    assert measure(Biased(), EXAMPLES, candidates=4)["matching_accuracy"].value == (1.0 if abs(bias) < 1 else 0.5)
    threshold = best_threshold(Biased(), EXAMPLES)
    assert threshold == bias
    assert measure(Biased(), EXAMPLES, candidates=4, threshold=threshold)["matching_accuracy"].value == 1


def test_a_threshold_of_scores_that_tell_nothing():
    assert best_threshold(Oracle(deaf=True), EXAMPLES) == 0
    with pytest.raises(InputError, match="1 utterances"):
        best_threshold(Oracle(), EXAMPLES[:1])


def test_who_hears_nothing():
    found = measure(Oracle(deaf=True), EXAMPLES, candidates=4)
    assert found["retrieval_random"].value == found["word_replaced"].value == 0, "a tie is not right"
    assert found["word_replaced_other_speech"] == found["word_replaced"]
    assert found["matching_accuracy"].value == 0.5
    assert found["masked_word"] == found["masked_word_other_speech"]


def test_a_sign_of_the_beginning_alone_does_not_count():
    """With characters as tokens, who hears nothing guesses it before every word."""

    class Speller(Oracle):
        labels = ("<unk>", "▁", *"abcdef")

        def tokens(self, text):
            return [self.labels.index(c) for word in text.split() for c in "▁" + word]

        def guesses(self, speech, tokens, masked):
            return [1 if tokens[place] == 1 else 0 for place in masked]

    found = measure(Speller(), EXAMPLES, candidates=4)
    assert found["masked_text"].of == sum(len(text.replace(" ", "")) for text in TEXTS)
    assert found["masked_text"].right == found["masked_word"].right == 0


def test_too_few_utterances():
    with pytest.raises(InputError, match="7 utterances of different texts; expected 20"):
        measure(Oracle(), EXAMPLES)


def test_words_of_tokens():
    assert word_places([1, 2, 3, 4, 4, 1], LABELS) == [[0, 1], [2, 3, 4], [5]]
    assert word_places([2, 3], LABELS) == [[0], [1]]


def test_a_word_is_replaced_by_another():
    rng = np.random.default_rng(0)
    for _ in range(30):
        words = with_a_word_replaced("x y x", ["x", "y", "z"], rng).split()
        assert sum(a != b for a, b in zip(words, ["x", "y", "x"], strict=True)) == 1

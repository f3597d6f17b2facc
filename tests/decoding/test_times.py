import itertools

import numpy as np
import pytest

from nemo_speechlm.decoding.times import label_frames, timed_words


def random_log_probs(frames, classes, seed):
    x = np.random.default_rng(seed).normal(size=(frames, classes))
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize("seed", range(8))
def test_is_the_best_of_all_paths(seed):
    x = random_log_probs(6, 3, seed)
    tokens = [[0], [0, 1], [0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0]][seed % 6]
    best, best_score = None, -np.inf
    for path in itertools.product(range(3), repeat=6):
        if [k for k, _ in itertools.groupby(path) if k != 2] == tokens:
            score = sum(x[t, k] for t, k in enumerate(path))
            if score > best_score:
                best, best_score = path, score
    runs, t = [], 0
    for k, group in itertools.groupby(best):
        length = len(list(group))
        if k != 2:
            runs.append((t, t + length))
        t += length
    assert label_frames(x, tokens).tolist() == [list(run) for run in runs]


def test_more_states_than_a_byte_counts():
    x = random_log_probs(400, 4, 0)
    tokens = [int(k) for k in np.random.default_rng(1).integers(3, size=150)]
    spans = label_frames(x, tokens)
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (spans[1:, 0] >= spans[:-1, 1]).all()


def test_no_labels_and_too_many():
    x = random_log_probs(3, 3, 0)
    assert label_frames(x, []).shape == (0, 2)
    with pytest.raises(ValueError, match="2 labels in 2 frames"):
        label_frames(x[:2], [0, 0])


def path_log_probs(path, classes):
    return np.log(
        np.full((len(path), classes), 0.1 / (classes - 1)) + (0.9 - 0.1 / (classes - 1)) * np.eye(classes)[path]
    )


def test_words_of_characters_and_of_tokens():
    labels = [" ", "a", "b"]
    x = path_log_probs([3, 1, 1, 3, 2, 0, 3, 2, 3], 4)  # _ a a _ b space _ b _
    words = timed_words(x, [1, 2, 0, 2], labels, frame_rate=10)
    assert [(w.text, w.start, w.end) for w in words] == [("ab", 0.1, 0.5), ("b", 0.7, 0.8)]
    assert words[0].confidence == pytest.approx(0.9)
    tokens = ["▁a", "b", "▁", "▁b"]
    x = path_log_probs([4, 0, 1, 4, 2, 1, 3, 3], 5)
    words = timed_words(x, [0, 1, 2, 1, 3], tokens, frame_rate=10)
    assert [(w.text, w.start, w.end) for w in words] == [("ab", 0.1, 0.3), ("b", 0.5, 0.6), ("b", 0.6, 0.8)]


def test_confidence_is_the_geometric_mean_of_each_labels_best_frame():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.2, 0.4, 0.4], [0.05, 0.05, 0.9]])
    (word,) = timed_words(np.log(probabilities), [0, 1], ["a", "b"], frame_rate=10)
    assert (word.text, word.start, word.end) == ("ab", 0.0, 0.3)
    assert word.confidence == pytest.approx((0.9 * 0.4) ** 0.5)

"""When each word was said: CTC's best path through the labels of a hypothesis.

Axis legend: T frames, V labels without the blank, S states (labels with blanks around them).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class TimedWord:
    """A word in time.

    Attributes:
        text: the word.
        start: seconds.
        end: seconds.
        confidence: geometric mean of its labels' probabilities, each at its best frame.
    """

    text: str
    start: float
    end: float
    confidence: float


def label_frames(log_probs: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """First frame of each label, and the one behind its last, on the most likely path.

    Args:
        log_probs: (T, V + 1), the blank last.
        tokens: label ids.

    Returns:
        (labels, 2) frames.

    Raises:
        ValueError: if there are fewer frames than the labels need.
    """
    frames, blank = len(log_probs), log_probs.shape[1] - 1
    ids = np.full(2 * len(tokens) + 1, blank)
    ids[1::2] = tokens
    repeats = sum(a == b for a, b in pairwise(tokens))
    if frames < len(tokens) + repeats:
        raise ValueError(f"{len(tokens)} labels in {frames} frames")
    if not len(tokens):
        return np.zeros((0, 2), dtype=int)
    may_skip = np.zeros(len(ids), dtype=bool)
    may_skip[3::2] = ids[3::2] != ids[1:-2:2]
    score_S = np.full(len(ids), -np.inf)
    score_S[:2] = log_probs[0, ids[:2]]
    steps_TS = np.zeros((frames, len(ids)), dtype=np.int8)  # states back that the best predecessor lies
    candidates = np.full((3, len(ids)), -np.inf)
    for t in range(1, frames):
        candidates[0] = score_S
        candidates[1, 1:] = score_S[:-1]
        candidates[2, 2:] = np.where(may_skip[2:], score_S[:-2], -np.inf)
        steps_TS[t] = candidates.argmax(axis=0)
        score_S = candidates.max(axis=0) + log_probs[t, ids]
    state = len(ids) - 1 if score_S[-1] >= score_S[-2] else len(ids) - 2
    path = np.empty(frames, dtype=int)
    for t in range(frames - 1, -1, -1):
        path[t] = state
        state -= int(steps_TS[t, state])
    where = np.flatnonzero(path % 2)
    starts = np.searchsorted(path[where], 2 * np.arange(len(tokens)) + 1, side="left")
    ends = np.searchsorted(path[where], 2 * np.arange(len(tokens)) + 1, side="right") - 1
    return np.stack([where[starts], where[ends] + 1], axis=1)


def timed_words(
    log_probs: np.ndarray, tokens: Sequence[int], labels: Sequence[str], frame_rate: float
) -> list[TimedWord]:
    """The words that labels spell, with their times.

    Args:
        log_probs: (T, V + 1).
        tokens: label ids.
        labels: the V labels; characters with the space among them, or tokens that begin words with ``▁``.
        frame_rate: frames per second.
    """
    spans = label_frames(log_probs, tokens)
    words: list[list[int]] = []
    fresh = True
    for position, token in enumerate(tokens):
        label = labels[token]
        if label in (" ", "▁"):
            fresh = True
            continue
        if fresh or label.startswith("▁"):
            words.append([])
        words[-1].append(position)
        fresh = False
    timed = []
    for positions in words:
        best = [log_probs[spans[p, 0] : spans[p, 1], tokens[p]].max() for p in positions]
        text = "".join(labels[tokens[p]] for p in positions).replace("▁", "")
        start, end = spans[positions[0], 0] / frame_rate, spans[positions[-1], 1] / frame_rate
        timed.append(TimedWord(text, round(float(start), 3), round(float(end), 3), float(np.exp(np.mean(best)))))
    return timed

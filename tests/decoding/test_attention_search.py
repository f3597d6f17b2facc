"""The batched search against a plain one, hypothesis by hypothesis."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.decoding.attention_search import EOS, SearchSettings, beam_search
from nemo_speechlm.modules.decoder.relative import PAD

B = 4


class Table:
    """A decoder whose next token depends on utterance, place and last token by a table of logits (B, U, V, V).

    On the place, too, since without it two orders of the same tokens could have the same score.
    """

    max_length = 100

    def __init__(self, logits):
        self.logits = logits

    def begin(self, encoded, padding):
        return torch.arange(len(encoded)), torch.arange(len(encoded)), 0

    def step(self, tokens, state):
        utterances, of, place = state
        row = utterances[of.repeat_interleave(len(tokens) // len(of))]
        return self.logits[row, place, tokens], (utterances, of, place + 1)

    def select(self, state, hypotheses, utterances=None):
        if utterances is None:
            return state
        kept = state[0][utterances]
        return kept, torch.arange(len(kept)), state[2]


def plain_search(logits, limit, how):
    """Fairseq's rules for one utterance with table (U, V, V), in Python lists."""
    log_probs = logits.log_softmax(-1).tolist()
    alive, finished = [((EOS,), 0.0)], []
    for step in range(limit + 1):
        found = []
        for order, (tokens, score) in enumerate(alive):
            for token, value in enumerate(log_probs[step][tokens[-1]]):
                allowed = token == EOS if step >= limit else (token != EOS or step >= how.min_length)
                if token != PAD and allowed:
                    found.append((score + value, order, token))
        found.sort(key=lambda one: -one[0])
        found = found[: 2 * how.beam_size]
        for place, (score, order, token) in enumerate(found):
            if token == EOS and place < how.beam_size and len(finished) < how.beam_size:
                tokens = (*alive[order][0][1:], EOS)
                finished.append((score / len(tokens) ** how.length_penalty, tokens))
        if len(finished) == how.beam_size or step >= limit:
            break
        alive = [((*alive[o][0], token), score) for score, o, token in found if token != EOS][: how.beam_size]
    return sorted(finished, key=lambda one: -one[0])


def table(vocabulary, generator, utterances=B, places=20):
    return torch.randn(utterances, places, vocabulary, vocabulary, generator=generator)


def check(logits, how):
    frames = torch.tensor([3, 9, 1, 5])
    found = beam_search(Table(logits), torch.zeros(B, 9, 2), frames, how)
    for row in range(B):
        limit = how.max_length + int(frames[row] * how.max_length_per_frame)
        expected = plain_search(logits[row], limit, how)
        assert [tuple(one.tokens.tolist()) for one in found[row]] == [tokens for _, tokens in expected]
        for one, (score, _) in zip(found[row], expected, strict=True):
            assert one.score == pytest.approx(score, rel=1e-4, abs=1e-5)
            assert len(one.tokens) <= limit + 1
            total = float(one.token_scores.sum()) / len(one.tokens) ** how.length_penalty
            assert one.score == pytest.approx(total, rel=1e-4, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(5, 12),
    st.integers(1, 6),
    st.floats(0, 1.5),
    st.integers(1, 6),
    st.floats(0, 1),
    st.integers(0, 2),
)
def test_against_the_plain_search(seed, vocabulary, beam, penalty, length, ratio, least):
    generator = torch.Generator().manual_seed(seed)
    logits = table(vocabulary, generator) * 2
    check(logits, SearchSettings(beam, penalty, length, ratio, min(least, length)))


def test_beam_wider_than_the_vocabulary():
    check(table(5, torch.Generator().manual_seed(1)), SearchSettings(beam_size=9, max_length=3))


def test_utterances_do_not_depend_on_each_other():
    logits = table(8, torch.Generator().manual_seed(2))
    how = SearchSettings(beam_size=3, max_length=6)
    together = beam_search(Table(logits), torch.zeros(B, 2, 2), torch.full((B,), 2), how)
    for row in range(B):
        (alone,) = beam_search(Table(logits[[row]]), torch.zeros(1, 2, 2), torch.tensor([2]), how)
        assert [a.tokens.tolist() for a in alone] == [t.tokens.tolist() for t in together[row]]


def test_a_wide_beam_finds_the_best_of_all():
    logits = table(6, torch.Generator().manual_seed(3), 1)
    log_probs = logits[0].log_softmax(-1)
    best = (-math.inf, ())
    texts = [()]
    for _ in range(4):
        for text in texts:
            path = (EOS, *text, EOS)
            score = sum(float(log_probs[place, a, b]) for place, (a, b) in enumerate(itertools.pairwise(path))) / (
                len(text) + 1
            )
            best = max(best, (score, (*text, EOS))) if text else best
        texts = [(*text, token) for text in texts for token in (0, 3, 4, 5)]
    (found,) = beam_search(Table(logits), torch.zeros(1, 1, 2), torch.tensor([1]), SearchSettings(200, 1.0, 3))
    assert tuple(found[0].tokens.tolist()) == best[1]
    assert found[0].score == pytest.approx(best[0], rel=1e-5)


@pytest.mark.parametrize("field", ["beam_size", "max_length"])
def test_settings_are_checked(field):
    with pytest.raises(ValueError, match=f"{field} is 0, expected at least 1"):
        SearchSettings(**{field: 0})

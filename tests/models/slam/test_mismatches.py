import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st

from nemo_speechlm.data.pretraining.batch import PairBatch
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.slam.mismatches import Mismatches, draw_texts, same_text, with_a_word_of

STARTS = torch.tensor([False, True, False, True, False, True, False])  # 1, 3 and 5 begin a word


def padded(texts):
    rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    return rows, torch.tensor([len(text) for text in texts])


def words_of(tokens):
    """The words of a text; the first token begins one in any case."""
    words = []
    for place, token in enumerate(tokens):
        if place == 0 or STARTS[token]:
            words.append([])
        words[-1].append(token)
    return [tuple(word) for word in words]


def test_texts_are_drawn_from_others_half_of_the_time(batch):
    many = PairBatch(*(torch.zeros(500, 1) for _ in range(2)), torch.arange(500).view(-1, 1), torch.ones(500))
    texts = draw_texts(many, 0.5, torch.Generator().manual_seed(0))
    assert float((texts != torch.arange(500)).double().mean()) == pytest.approx(0.5, abs=0.06)
    assert (draw_texts(batch.pairs, 1.0) != torch.arange(3)).all()
    assert torch.equal(draw_texts(batch.pairs, 0.0), torch.arange(3))


def test_the_same_words_of_another_utterance_match():
    tokens = torch.tensor([[3, 4], [3, 4], [3, 0]])
    given = PairBatch(torch.zeros(3, 1), torch.ones(3), tokens, torch.tensor([2, 2, 1]))
    assert same_text(given, tokens[[1, 2, 2]], given.token_lengths[[1, 2, 2]]).tolist() == [True, False, True]


def test_a_text_that_ends_in_the_token_of_padding_is_another():
    given = PairBatch(torch.zeros(2, 1), torch.ones(2), torch.tensor([[3, 0], [3, 0]]), torch.tensor([2, 1]))
    assert same_text(given, given.tokens[[1, 1]], given.token_lengths[[1, 1]]).tolist() == [False, True]


def test_one_pair_has_no_mismatch():
    alone = PairBatch(torch.zeros(1, 1), torch.ones(1), torch.ones(1, 2), torch.tensor([2]), ("pairs.json:7",))
    with pytest.raises(SpeechLMError, match=r"one pair only \(pairs\.json:7\).*pairs\.batch_duration"):
        draw_texts(alone, 0.5)


def test_a_word_is_replaced_by_one_of_the_other_text():
    generator = torch.Generator().manual_seed(0)
    texts = [[1, 2, 2, 3, 4], [5], [2, 4, 1, 5, 6, 6, 6], [3, 3, 3, 3]]
    others = [[5, 6], [1, 2, 3, 4, 4, 4], [3], [2, 2, 2, 2, 2, 2]]
    seen = set()
    for _ in range(200):
        tokens, lengths = with_a_word_of(padded(texts), padded(others), STARTS, generator)
        for b, (text, other, length) in enumerate(zip(texts, others, lengths.tolist(), strict=True)):
            assert not tokens[b, length:].any(), "nothing stands behind a text"
            found, own = tokens[b, :length].tolist(), words_of(text)
            possible = {
                tuple(token for word in [*own[:place], new, *own[place + 1 :]] for token in word)
                for place in range(len(own))
                for new in words_of(other)
            }
            assert tuple(found) in possible
            seen.add((b, tuple(found)))
    assert len(seen) == 2 * 1 + 1 * 2 + 3 * 1 + 4, "each word of each text, by each of the other's"


def test_shares_of_mismatches():
    """Own words are 1 and 2, another's are others: 4 of 10 get another text, 3 of 4 of these by one word."""
    B = 4000
    tokens = torch.stack([torch.arange(B) * 4 + place for place in range(4)], 1) + 1
    starts = torch.ones(4 * B + 1, dtype=torch.bool)
    given = PairBatch(torch.zeros(B, 1), torch.ones(B), tokens, torch.full((B,), 4))
    found, lengths = Mismatches(0.4, 0.75).draw(given, starts, torch.Generator().manual_seed(0))
    assert (lengths == 4).all()
    same = (found == tokens).sum(1)
    shares = [float((same == count).double().mean()) for count in range(5)]
    assert shares == pytest.approx([0.1, 0, 0, 0.3, 0.6], abs=0.03)
    assert torch.equal(same_text(given, found, lengths), same == 4)


@drawn(
    texts=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=9), min_size=2, max_size=4),
    mismatched=st.sampled_from([1e-9, 0.5, 1 - 1e-9]),
    seed=st.integers(0, 1000),
)
def test_no_text_is_cut(texts, mismatched, seed):
    """Also where texts with a replaced word are shorter than the longest of the batch."""
    tokens, lengths = padded(texts)
    pairs = PairBatch(torch.zeros(len(texts), 1), torch.ones(len(texts)), tokens, lengths)
    found, sizes = Mismatches(mismatched, 0.7).draw(pairs, STARTS, torch.Generator().manual_seed(seed))
    assert int(sizes.max()) <= found.shape[1]
    if mismatched < 0.1:
        assert [row[:size] for row, size in zip(found.tolist(), sizes.tolist(), strict=True)] == texts
    assert same_text(pairs, found, sizes).tolist() == [
        row[:size] == own for row, size, own in zip(found.tolist(), sizes.tolist(), texts, strict=True)
    ]


def test_without_replaced_words_draws_are_as_before():
    given = PairBatch(torch.zeros(50, 1), torch.ones(50), torch.arange(100).view(50, 2), torch.full((50,), 2))
    tokens, _ = Mismatches(0.5).draw(given, torch.ones(100, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert torch.equal(tokens, given.tokens[draw_texts(given, 0.5, torch.Generator().manual_seed(0))])


def test_a_share_that_is_none():
    with pytest.raises(SpeechLMError, match=r"model\.stm\.replaced"):
        Mismatches(0.5, 1.5)

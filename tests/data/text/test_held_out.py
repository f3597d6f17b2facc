from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.text.held_out import place_sentences
from nemo_speechlm.errors import InputError
from tests.memory import traced_peak

VALID = Path("valid.json")


def places(texts, unique=True, valid_lines=0, seed=0):
    records = ({"text": text} for text in texts)
    return list(place_sentences(records, unique=unique, valid_lines=valid_lines, valid_output=VALID, seed=seed))


@given(st.lists(st.integers(0, 30), max_size=80), st.booleans(), st.integers(0, 1000), st.data())
def test_places_are_those_of_the_plain_way(numbers, unique, seed, data):
    texts = [f"sentence {number}" for number in numbers]
    kept = list(dict.fromkeys(texts)) if unique else texts
    valid_lines = data.draw(st.integers(0, max(0, len(kept) - 1)))
    found = places(texts, unique, valid_lines, seed)

    first = [position for position, text in enumerate(texts) if not unique or text not in texts[:position]]
    held_out = set(np.random.default_rng(seed).choice(first, valid_lines, replace=False).tolist()) if first else set()
    for position, place in enumerate(found):
        expected = "a repeated sentence" if position not in first else VALID if position in held_out else None
        assert place == expected, position


def test_as_many_to_hold_out_as_there_are():
    with pytest.raises(InputError, match="valid_lines=2, but the source gives 2 in all"):
        places(["a", "b", "a"], valid_lines=2)


def test_memory_of_a_sentence():
    count = 100_000
    records = ({"text": str(number % 90_000)} for number in range(count))
    peak, found = traced_peak(
        lambda: place_sentences(records, unique=True, valid_lines=100, valid_output=VALID, seed=0)
    )
    assert sum(place == "a repeated sentence" for place in found) == 10_000
    assert peak <= 16 * count

import numpy as np
import pytest

from nemo_speechlm.errors import InputError
from nemo_speechlm.language_models.unit_bigram import unit_bigram
from nemo_speechlm.units.inventory import UnitInventory


def inventory(*symbols):
    return UnitInventory("phoneme", "en", 100, ("SIL", *symbols), "SIL")


def test_probabilities_of_what_follows_sum_up_to_one():
    units = inventory("A", "B", "C")
    table = np.exp(unit_bigram([[0, 1, 2, 0], [0, 1, 1, 0], [0, 2, 1, 2, 0]], units))
    seen = [0, 1, 2, 4]  # C never occurs
    np.testing.assert_allclose(table[seen].sum(1), 1, rtol=1e-6)
    assert not table[:, 3].any()
    assert not table[4, 4]
    assert table[4, 0] > 0.8  # all begin and end with silence
    assert table[0, 4] > table[1, 4]
    assert table[1, 2] > table[2, 2] > 0  # seen twice; never, but B occurs
    assert (table[np.ix_(seen, [0, 1, 2])] > 0).all()


def test_positions_follow_each_other_as_in_words():
    units = inventory("A_B", "A_E", "T_B", "T_E", "A_S", "T_I")
    word, other = [1, 4], [3, 6, 2]  # A_B T_E, T_B T_I A_E
    table = unit_bigram([[0, *word, *other, 0], [0, *other, 5, *word], [*word, 0, 5, 0]], units)
    legal = {
        name: {units.symbols[i] for i in np.flatnonzero(table[row, :-1] > -np.inf)}
        for name, row in {"A_B": 1, "T_I": 6, "T_E": 4, "begin": 7}.items()
    }
    assert legal["A_B"] == {"A_E", "T_E", "T_I"}
    assert legal["T_I"] == {"A_E", "T_E"}
    assert legal["T_E"] == {"SIL", "A_B", "T_B", "A_S"}
    assert legal["begin"] == {"SIL", "A_B", "T_B"}
    assert table[1, -1] == -np.inf  # nothing ends within a word
    np.testing.assert_allclose(np.exp(table).sum(1), 1, rtol=1e-6)


def test_no_units():
    with pytest.raises(InputError):
        unit_bigram([], inventory("A"))

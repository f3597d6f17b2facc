"""A smoothed bigram of units, without pairs of units that cannot follow each other in words."""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from nemo_speechlm.language_models.kneser_ney import NGramModel, train_ngram_model
from nemo_speechlm.units.inventory import UnitInventory

_POSITION = re.compile("_[BEIS]$")


def unit_bigram(sequences: Iterable[Sequence[int]], inventory: UnitInventory) -> np.ndarray:
    """Log-probabilities of units after units, with Kneser-Ney smoothing.

    Units that do not occur have probability 0. If units name their position in the word (``AH0_B``), so have pairs
    whose positions never follow each other in the sequences, such as a word's begin after another word's begin.

    Args:
        sequences: unit ids, a sequence for each utterance or sentence.
        inventory: the units; V of them.

    Returns:
        (V + 1, V + 1) natural logarithms, column after row, float32; the last row is the beginning of a sequence, the
        last column its end.

    Raises:
        InputError: if there are no units in the sequences.
    """
    count = len(inventory)
    positions = [_position(symbol) for symbol in inventory.symbols]
    names = sorted(set(positions))
    kind = np.array([*(names.index(position) for position in positions), len(names)])
    legal = np.zeros((len(names) + 1, len(names) + 1), dtype=bool)

    def spelled() -> Iterable[list[str]]:
        for ids in sequences:
            framed = kind[[count, *ids, count]]
            legal[framed[:-1], framed[1:]] = True
            yield [str(i) for i in ids]

    model = train_ngram_model(spelled(), order=2)
    table = _dense(model, count)
    table[~legal[kind][:, kind]] = 0.0
    table[count, count] = 0.0
    sums = table.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(np.divide(table, sums, out=np.zeros_like(table), where=sums > 0)).astype(np.float32)


def _position(symbol: str) -> str:
    found = _POSITION.search(symbol)
    return found[0] if found else ""


def _dense(model: NGramModel, count: int) -> np.ndarray:
    """(count + 1, count + 1) probabilities of a bigram whose words are unit ids; begin and end are the last id."""
    unigrams, bigrams = model.orders
    number = np.array([count, count, -1, *map(int, model.words)])  # <s>, </s>, <UNK>, units
    words = unigrams.words[:, 0]
    units = words[words >= 3]
    following = np.append(units, 1)
    probability, weight = np.zeros(len(words)), np.zeros(len(words))
    probability[words], weight[words] = 10.0**unigrams.probabilities, 10.0**unigrams.backoffs
    table = np.zeros((count + 1, count + 1))
    for before in (0, *units):
        table[number[before], number[following]] = weight[before] * probability[following]
    kept = (bigrams.words != 2).all(1)
    first, second = bigrams.words[kept].T
    table[number[first], number[second]] = 10.0 ** bigrams.probabilities[kept]
    return table

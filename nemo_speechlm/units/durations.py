"""Durations of text units: statistics per unit (estimated, or the paper's) and draws from them."""

from collections.abc import Iterable, Sequence

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.units.inventory import DurationModel, UnitInventory
from nemo_speechlm.units.phones import SILENCE, SPOKEN_NOISE, phone_of_unit
from nemo_speechlm.units.sequence import UnitSequence

PAPER_PHONE = DurationModel(5, 2.5)
PAPER_SILENCE = DurationModel(14, 7)
PAPER_SPOKEN_NOISE = DurationModel(32, 11)
_PAPER_FRAME_RATE = 100

_PRIOR_WEIGHT = 10
"""Occurrences of a unit that weigh as much as the statistics it backs off to."""


def paper_durations(inventory: UnitInventory) -> dict[str, DurationModel]:
    """The released code's durations: phones N(5, 2.5) frames of 10 ms, SIL N(14, 7), SPN N(32, 11)."""
    factor = inventory.frame_rate / _PAPER_FRAME_RATE
    return {symbol: _scaled(_paper(symbol, inventory), factor) for symbol in inventory.symbols}


def _paper(symbol: str, inventory: UnitInventory) -> DurationModel:
    base = _base(symbol, inventory)
    if symbol == inventory.silence or base == SILENCE:
        return PAPER_SILENCE
    return PAPER_SPOKEN_NOISE if base == SPOKEN_NOISE else PAPER_PHONE


def _scaled(duration: DurationModel, factor: float) -> DurationModel:
    return DurationModel(duration.mean * factor, duration.std * factor)


def estimate_durations(sequences: Iterable[UnitSequence], inventory: UnitInventory) -> dict[str, DurationModel]:
    """Duration statistics of every unit from aligned speech.

    A rare unit is drawn towards its base phone (``AH`` for ``AH0_B``), and a rare base phone towards all phones, with
    the weight of ten occurrences; so an unseen unit has the statistics of the nearest thing that was seen. Silence and
    spoken noise back off to the paper's values, as do all units if nothing was seen.
    """
    size = len(inventory)
    moments = np.zeros((size, 3))  # count, sum, sum of squares
    for ids, durations in sequences:
        frames = np.asarray(durations, dtype=np.float64)
        for power in range(3):
            moments[:, power] += np.bincount(ids, frames**power, minlength=size)[:size]
    prior = {symbol: _moments(duration) for symbol, duration in paper_durations(inventory).items()}
    phones = [unit for unit, symbol in enumerate(inventory.symbols) if _paper(symbol, inventory) is PAPER_PHONE]
    if phones:
        of_phones = _shrunk(moments[phones].sum(0), prior[inventory.symbols[phones[0]]])
        prior.update((inventory.symbols[unit], of_phones) for unit in phones)
    groups: dict[str, list[int]] = {}
    for unit, symbol in enumerate(inventory.symbols):
        groups.setdefault(_base(symbol, inventory), []).append(unit)
    estimates: dict[str, DurationModel] = {}
    for units in groups.values():
        of_base = _shrunk(moments[units].sum(0), prior[inventory.symbols[units[0]]])
        for unit in units:
            mean, square = _shrunk(moments[unit], of_base)
            estimates[inventory.symbols[unit]] = DurationModel(float(mean), float(np.sqrt(max(square - mean**2, 0.0))))
    return {symbol: estimates[symbol] for symbol in inventory.symbols}


def _base(symbol: str, inventory: UnitInventory) -> str:
    """What units have in common whose durations are alike; hidden units have nothing in common."""
    return phone_of_unit(symbol, inventory.language) if inventory.kind == "phoneme" else symbol


def _moments(duration: DurationModel) -> np.ndarray:
    return np.array([duration.mean, duration.mean**2 + duration.std**2])


def _shrunk(moments: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Mean and mean square of observations (count, sum, sum of squares) together with ``_PRIOR_WEIGHT`` prior ones."""
    return (moments[1:] + _PRIOR_WEIGHT * prior) / (moments[0] + _PRIOR_WEIGHT)


class DurationSampler:
    """Draws durations for sequences of an inventory's units.

    Raises:
        InputError: if the inventory lacks duration statistics for any of its units.
    """

    def __init__(self, inventory: UnitInventory):
        missing = [symbol for symbol in inventory.symbols if symbol not in inventory.durations]
        if missing:
            raise InputError(
                f"unit inventory: no duration statistics for {len(missing)} of {len(inventory)} units "
                f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}); tokenize_text.py adds them"
            )
        models = np.array([inventory.durations[symbol] for symbol in inventory.symbols], dtype=np.float64)
        self._mean, self._std = models[:, 0].copy(), models[:, 1].copy()

    def draw(self, ids: Sequence[int] | np.ndarray, rng: np.random.Generator, scale: float = 1.0) -> list[int]:
        """Durations of the units ``ids``, in frames: N(mean, std) times ``scale``, rounded, at least 1.

        ``scale`` is the frame rate wanted over the inventory's.
        """
        units = np.asarray(ids, dtype=np.int64)
        frames = self._mean[units] + self._std[units] * rng.standard_normal(len(units))
        return np.maximum(np.rint(frames * scale), 1.0).astype(np.int64).tolist()

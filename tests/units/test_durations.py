"""Estimates against plain ones, draws against their distribution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError
from nemo_speechlm.units.durations import DurationSampler, estimate_durations, paper_durations
from nemo_speechlm.units.inventory import DurationModel, UnitInventory
from nemo_speechlm.units.phones import base_phone, phone_inventory, phoneme_inventory
from nemo_speechlm.units.sequence import UnitSequence

INVENTORY = phoneme_inventory()
PAPER = INVENTORY.with_durations(paper_durations(INVENTORY))


def test_paper_durations():
    assert PAPER.durations["AH0_B"] == PAPER.durations["T_E"] == (5, 2.5)
    assert PAPER.durations["SIL"] == PAPER.durations["SIL_B"] == (14, 7)
    assert PAPER.durations["SPN_S"] == (32, 11)
    half = UnitInventory("phoneme", "en", 50, ("SIL", "AH"), "SIL")
    assert paper_durations(half) == {"SIL": (7, 3.5), "AH": (2.5, 1.25)}


def test_draws_have_the_distribution_they_should():
    ids = INVENTORY.encode(["AH0_B", "SIL"]) * 20_000
    drawn = np.array(DurationSampler(PAPER).draw(ids, np.random.default_rng(0))).reshape(-1, 2)
    for column, (mean, std) in enumerate([(5, 2.5), (14, 7)]):
        plain = np.random.default_rng(1).normal(mean, std, 200_000)
        plain = np.maximum(np.rint(plain), 1)
        assert abs(drawn[:, column].mean() - plain.mean()) < 0.1
        assert abs(drawn[:, column].std() - plain.std()) < 0.1
    assert drawn.min() == 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 345), max_size=50), st.integers(0, 99), st.sampled_from([0.1, 0.5, 1.0, 2.0]))
def test_draws_are_whole_frames_and_repeat(ids: list[int], seed: int, scale: float):
    sampler = DurationSampler(PAPER)
    drawn = sampler.draw(ids, np.random.default_rng(seed), scale)
    assert len(drawn) == len(ids)
    assert all(isinstance(d, int) and d >= 1 for d in drawn)
    assert drawn == sampler.draw(ids, np.random.default_rng(seed), scale)
    assert drawn == sampler.draw(np.array(ids, dtype=np.int64), np.random.default_rng(seed), scale)
    UnitSequence(ids, drawn).expand()


def test_a_scaled_draw_is_one_at_the_other_frame_rate():
    """Phones of one frame of 10 ms, too, from an inventory of 20 ms."""
    fast, slow = (
        DurationSampler(INVENTORY.with_durations(dict.fromkeys(INVENTORY.symbols, DurationModel(mean, mean / 2))))
        for mean in (5.0, 2.5)
    )
    ids = INVENTORY.encode(["AH0_B"] * 1000)
    expected = np.maximum(np.rint(np.random.default_rng(5).normal(5, 2.5, 1000)), 1).astype(int).tolist()
    assert fast.draw(ids, np.random.default_rng(5)) == slow.draw(ids, np.random.default_rng(5), 2.0) == expected
    assert expected.count(1) > 50
    halves = np.maximum(np.rint(np.random.default_rng(5).normal(5, 2.5, 1000) * 0.5), 1)
    assert fast.draw(ids, np.random.default_rng(5), 0.5) == halves.astype(int).tolist()


def test_an_inventory_without_statistics_cannot_be_drawn_from():
    with pytest.raises(InputError, match="no duration statistics for 346 of 346 units"):
        DurationSampler(INVENTORY)
    with pytest.raises(InputError, match=r"for 345 of 346 units \(SIL_B, SIL_E, SIL_I, \.\.\.\)"):
        DurationSampler(INVENTORY.with_durations({"SIL": DurationModel(14, 7)}))


def test_estimates_of_frequent_units_are_their_own():
    rng = np.random.default_rng(0)
    symbols = ["SIL", "AH0_I", "T_E"]
    ids = INVENTORY.encode(symbols)
    sequences = [UnitSequence(ids, rng.integers([20, 2, 6], [41, 5, 11]).tolist()) for _ in range(5000)]
    estimates = estimate_durations(iter(sequences), INVENTORY)
    durations = np.array([s.durations for s in sequences])
    for i, symbol in enumerate(symbols):
        assert estimates[symbol].mean == pytest.approx(durations[:, i].mean(), abs=0.05)
        assert estimates[symbol].std == pytest.approx(durations[:, i].std(), abs=0.1)


def test_unseen_units_back_off_to_base_phone_then_to_all_phones_then_to_the_paper():
    sequences = [UnitSequence(INVENTORY.encode(["AH0_I", "T_E"]), [3, 9])] * 5000
    estimates = estimate_durations(sequences, INVENTORY)
    assert estimates["AH1_B"].mean == pytest.approx(3, abs=0.05)
    assert estimates["T_S"].mean == pytest.approx(9, abs=0.05)
    assert estimates["ZH_B"].mean == pytest.approx(6, abs=0.05)
    assert estimates["SIL"] == pytest.approx((14, 7))
    assert estimates["SPN_S"] == pytest.approx((32, 11))
    assert estimate_durations([], INVENTORY) == {s: pytest.approx(tuple(d)) for s, d in PAPER.durations.items()}


def test_rare_units_lie_between_their_own_and_their_base_phones():
    sequences = [UnitSequence(INVENTORY.encode(["AH0_I"]), [3])] * 1000
    sequences += [UnitSequence(INVENTORY.encode(["AH1_S"]), [13])] * 10
    estimate = estimate_durations(sequences, INVENTORY)["AH1_S"]
    assert estimate.mean == pytest.approx(8, abs=0.3)  # ten of 13 beside ten of about 3
    assert 3 < estimate.std < 7


def test_other_languages_have_base_phones_too():
    inventory = phone_inventory("ru", ["a", "ˈɑ", "t"], "position_stress")
    counted = [UnitSequence(inventory.encode(["a_B", "t_E"]), [20, 4])] * 1000
    estimates = estimate_durations(counted, inventory)
    assert estimates["a_I"].mean == estimates["a_S"].mean == pytest.approx(20, abs=0.2)
    assert estimates["t_B"].mean == pytest.approx(4, abs=0.2)
    assert estimates["ˈɑ_B"].mean == pytest.approx(12, abs=0.2)  # of all phones: stress is another sound
    assert estimates["SIL"] == (14, 7)


def test_estimates_against_a_slow_plain_version():
    rng = np.random.default_rng(2)
    sequences = [
        UnitSequence(rng.integers(0, len(INVENTORY), 30).tolist(), rng.integers(1, 40, 30).tolist()) for _ in range(20)
    ]
    seen: dict[str, list[int]] = {}
    for sequence in sequences:
        for unit, duration in zip(INVENTORY.decode(sequence.ids), sequence.durations, strict=True):
            seen.setdefault(unit, []).append(duration)

    def pool(durations: list[int], prior: tuple[float, float]) -> tuple[float, float]:
        mean = (sum(durations) + 10 * prior[0]) / (len(durations) + 10)
        square = (sum(d * d for d in durations) + 10 * (prior[1] ** 2 + prior[0] ** 2)) / (len(durations) + 10)
        return mean, (square - mean**2) ** 0.5

    special = {"SIL": (14, 7), "SPN": (32, 11)}
    every = pool([d for s, ds in seen.items() if base_phone(s) not in special for d in ds], (5, 2.5))
    estimates = estimate_durations(sequences, INVENTORY)
    for symbol in INVENTORY.symbols:
        base = base_phone(symbol)
        siblings = [d for s, ds in seen.items() if base_phone(s) == base for d in ds]
        expected = pool(seen.get(symbol, []), pool(siblings, special.get(base, every)))
        assert estimates[symbol] == pytest.approx(expected)


def test_hidden_units_have_no_base():
    hidden = UnitInventory("hidden", "en", 50, ("1", "10", "100", "7"))
    sequences = [UnitSequence([0, 1, 2], [2, 4, 6])] * 3000
    estimates = estimate_durations(sequences, hidden)
    assert [round(estimates[s].mean, 1) for s in hidden.symbols] == [2, 4, 6, 4]
    with_statistics = hidden.with_durations(estimates)
    assert np.mean(DurationSampler(with_statistics).draw([2] * 100, np.random.default_rng(0))) == pytest.approx(
        6, abs=0.3
    )

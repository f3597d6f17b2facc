"""The inventory refuses whatever would make labels silently wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError
from nemo_speechlm.units.inventory import DurationModel, UnitInventory
from nemo_speechlm.units.sequence import UnitSequence

INVENTORY = UnitInventory("phoneme", "en", 100, ("SIL", "AH", "T"), "SIL", {"AH": DurationModel(5, 2.5)})


@given(st.lists(st.integers(0, 2)))
def test_decode_inverts_encode(ids: list[int]):
    assert INVENTORY.encode(INVENTORY.decode(ids)) == ids
    assert INVENTORY.encode(ids) == ids


@pytest.mark.parametrize("symbol", ["EH", "", 3, -1, True, None, 1.0, ["AH"]])
def test_unknown_symbols_are_errors_with_file_and_line(symbol: object):
    with pytest.raises(InputError, match=r"^m\.json:4: unit 1 is "):
        INVENTORY.encode(["SIL", symbol], "m.json", 4)  # type: ignore[list-item]


def test_what_is_saved_is_loaded(tmp_path: Path):
    INVENTORY.save(tmp_path / "new" / "units.json")
    assert UnitInventory.load(tmp_path / "new" / "units.json") == INVENTORY


def test_hidden_units_know_their_centroids(tmp_path: Path):
    one, other = (UnitInventory("hidden", "en", 50, ("0", "1"), made_by=digest) for digest in ("aa", "bb"))
    one.save(tmp_path / "units.json")
    known = UnitInventory.load(tmp_path / "units.json")
    assert known == one
    assert known.with_durations({"0": DurationModel(2.0, 1.0)}).made_by == "aa"
    known.check_maker(one, "units.json")
    known.check_maker(UnitInventory("hidden", "en", 50, ("0", "1")), "units.json")  # of an earlier version
    with pytest.raises(InputError, match=r"^units.json: its units are those of other centroids .digest aa, the .* bb"):
        known.check_maker(other, "units.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "letters"}, "kind is 'letters'"),
        ({"frame_rate": 0}, "frame_rate is 0.0"),
        ({"frame_rate": "fast"}, "could not convert"),
        ({"symbols": []}, "no symbols"),
        ({"symbols": ["SIL", "A", "A"]}, "symbol 'A' at 1 and again at 2"),
        ({"symbols": ["SIL", "A B"]}, "symbol 1 is 'A B', expected a word"),
        ({"symbols": ["SIL", ""]}, "symbol 1 is ''"),
        ({"symbols": ["SIL", 3]}, "symbol 1 is 3"),
        ({"silence": "sil"}, "silence 'sil' is not among its symbols"),
        ({"durations": {"A": [1, 1]}}, "durations name 'A'"),
        ({"durations": {"AH": [0, 1]}}, "duration of 'AH' has mean 0"),
        ({"durations": {"AH": [1]}}, "std"),
        ({"durations": [[14, 7], [5, 2.5]]}, "durations is ..14, 7., .*, expected an object"),
        ({"silence": ["SIL"]}, "silence .'SIL'. is not among its symbols"),
        ({"symbols": None}, "symbols is None, expected a list"),
        ({"symbols": "ABC"}, "symbols is 'ABC', expected a list"),
    ],
)
def test_inventories_that_cannot_be(tmp_path: Path, change: dict, message: str):
    path = tmp_path / "units.json"
    INVENTORY.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message) as error:
        UnitInventory.load(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "units.json:1: not JSON"), ("[]", "expected a JSON object"), ("{}", "no key kind"), (None, "cannot read")],
)
def test_files_that_are_no_inventory(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "units.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        UnitInventory.load(path)


@given(st.lists(st.integers(0, 3), max_size=40))
def test_run_lengths_invert(frames: list[int]):
    sequence = UnitSequence.from_frames(frames)
    assert sequence.expand().tolist() == frames
    assert sequence.expand().dtype == np.int64
    assert sequence.num_frames == len(frames)
    assert all(a != b for a, b in zip(sequence.ids, sequence.ids[1:], strict=False))
    assert all(isinstance(x, int) for x in sequence.ids + sequence.durations)

"""The text tokenizer's job: its lines, and the inventory that it makes or finds."""

import json
from pathlib import Path

import pytest

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.tokenizers.english_text import EnglishTokenizing
from nemo_speechlm.tokenizers.jobs.text import make_text_units_work, prepare_inventory
from nemo_speechlm.units.durations import paper_durations
from nemo_speechlm.units.inventory import DurationModel, UnitInventory
from nemo_speechlm.units.phones import phoneme_inventory

INVENTORY = phoneme_inventory("plain")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    prepare_inventory(tmp_path / "units.json", EnglishTokenizing("plain"))
    return tmp_path / "units.json"


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    records = [{"units": "SIL AH T SIL", "unit_durations": [30, 4, 8, 30], "duration": 0.72} for _ in range(500)]
    write_manifest(tmp_path / "aligned.json", records)
    return tmp_path / "aligned.json"


def test_lines(units: Path):
    tokenize = make_text_units_work("text.json", units, EnglishTokenizing("plain", silence_probability=0), max_units=9)

    def work(number, line):
        [result] = tokenize([(number, line)])
        if isinstance(result, Exception):
            raise result
        return result

    line = json.dumps({"text": "a cat sat", "id": 7, "units": "X", "unit_durations": [1], "cut_phones": 2})
    assert work(1, line) == {"text": "a cat sat", "id": 7, "units": "SIL AH K AE T S AE T SIL"}
    with pytest.raises(SkipItem, match="more than max_units=9 units"):
        work(2, '{"text": "a cat sat on"}')
    for line, message in [
        ("a cat", "text.json:3: not JSON"),
        ('{"a": 1}', "text.json:3: no key 'text'"),
        ('{"text": null}', "text.json:3: 'text' is None, expected a string"),
        ('{"text": "..."}', "no word that can be pronounced"),
        ('{"text": "a c\u0430t"}', "has a letter that is not English"),
    ]:
        with pytest.raises(InputError, match=message):
            work(3, line)


def test_audio_of_a_line_is_found_from_its_new_place(units: Path, tmp_path: Path):
    given = (tmp_path / "text.json", units, EnglishTokenizing("plain"))
    line = json.dumps({"text": "a cat", "audio_filepath": "a/1.wav"})
    for output, expected in (("out/b.json", str(tmp_path / "a/1.wav")), ("b.json", "a/1.wav")):
        (record,) = make_text_units_work(*given, output=tmp_path / output)([(1, line)])
        assert record["audio_filepath"] == expected


def test_inventory_is_made_with_the_papers_durations(units: Path):
    assert UnitInventory.load(units) == INVENTORY.with_durations(paper_durations(INVENTORY))


def test_durations_are_estimated_from_speech(tmp_path: Path, units: Path, aligned: Path):
    for path in (units, tmp_path / "new.json"):
        estimated = prepare_inventory(path, EnglishTokenizing("plain"), aligned_manifest=aligned)
        assert estimated.durations["T"].mean == pytest.approx(8, abs=0.1)
        assert estimated.durations["SIL"].mean == pytest.approx(30, abs=0.3)
        saved = UnitInventory.load(path)
        assert saved.durations["T"] == pytest.approx(estimated.durations["T"], abs=1e-3)
        assert saved.symbols == INVENTORY.symbols


def test_durations_are_estimated_from_several_manifests(tmp_path: Path, aligned: Path):
    lines = aligned.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, part in enumerate((lines[::2], lines[1::2])):
        (tmp_path / f"part_{number}.json").write_text("".join(part), encoding="utf-8")
    whole = prepare_inventory(tmp_path / "a.json", EnglishTokenizing("plain"), aligned_manifest=aligned)
    names = [str(tmp_path / "part_0.json"), str(tmp_path / "part_1.json")]
    for several in (names, str(tmp_path / "part__OP_0..1_CL_.json")):
        made = prepare_inventory(tmp_path / "b.json", EnglishTokenizing("plain"), aligned_manifest=several)
        assert made.durations.keys() == whole.durations.keys()
        for symbol, model in whole.durations.items():
            assert made.durations[symbol] == pytest.approx(model, rel=1e-9)
        (tmp_path / "b.json").unlink()


def test_durations_that_are_there_stay_unless_told(tmp_path: Path):
    path = tmp_path / "units.json"
    own = INVENTORY.with_durations(dict.fromkeys(INVENTORY.symbols, DurationModel(9, 1)))
    own.save(path)
    assert prepare_inventory(path, EnglishTokenizing("plain")).durations["T"] == (9, 1)
    assert prepare_inventory(path, EnglishTokenizing("plain"), "paper").durations["T"] == (5, 2.5)
    INVENTORY.save(path)
    assert prepare_inventory(path, EnglishTokenizing("plain")).durations["T"] == (5, 2.5)
    assert UnitInventory.load(path).durations["SIL"] == (14, 7)


@pytest.mark.parametrize(
    ("inventory", "style", "message"),
    [
        (INVENTORY, "position_stress", "277 units of style=position_stress are not among its 40 units"),
        (phoneme_inventory(), "plain", "39 units of style=plain are not among its 346 units"),
        (UnitInventory("hidden", "en", 50, ("0", "1")), "plain", "an inventory of hidden units"),
        (UnitInventory("phoneme", "cs", 100, ("SIL", "a")), "plain", "for language 'cs'"),
        (UnitInventory("phoneme", "en", 100, INVENTORY.symbols, "T"), "plain", "its silence is 'T'"),
    ],
)
def test_text_must_fit_the_inventory(tmp_path: Path, inventory: UnitInventory, style: str, message: str):
    inventory.save(tmp_path / "units.json")
    before = (tmp_path / "units.json").read_text()
    with pytest.raises(InputError, match=rf"units\.json: .*{message}"):
        prepare_inventory(tmp_path / "units.json", EnglishTokenizing(style))
    assert (tmp_path / "units.json").read_text() == before


def test_an_imported_inventory_may_have_another_order_and_more_units(tmp_path: Path):
    symbols = ("#0", *reversed(phoneme_inventory().symbols))
    UnitInventory("phoneme", "en", 100, symbols, "SIL").save(tmp_path / "units.json")
    assert prepare_inventory(tmp_path / "units.json", EnglishTokenizing("position_stress")).symbols == symbols


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"durations": "guess"}, "durations is 'guess', expected paper or estimate"),
        ({"durations": "estimate"}, "needs aligned_manifest"),
        ({"durations": "paper", "aligned_manifest": "a.json"}, "makes no use of aligned_manifest"),
        ({"aligned_manifest": "nowhere.json"}, "nowhere.json: no such file"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        prepare_inventory(tmp_path / "units.json", EnglishTokenizing("plain"), **options)
    assert not (tmp_path / "units.json").exists()


def test_speech_with_other_units(tmp_path: Path):
    write_manifest(tmp_path / "aligned.json", [{"units": "SIL AH0_B", "unit_durations": [3, 4]}])
    with pytest.raises(InputError, match=r"aligned\.json:1: unit 1 is 'AH0_B'"):
        prepare_inventory(
            tmp_path / "units.json", EnglishTokenizing("plain"), aligned_manifest=tmp_path / "aligned.json"
        )

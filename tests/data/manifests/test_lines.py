"""Every wrong manifest line is an error that names file and line."""

import gzip
import json
from pathlib import Path

import pytest

from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.data.manifests.lines import audio_path, read_manifest, write_manifest
from nemo_speechlm.data.manifests.sentences import read_sentences
from nemo_speechlm.data.manifests.units import FRAME_TOLERANCE, unit_sequence
from nemo_speechlm.data.text.cleaning import make_cleaning_work
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import dump_line
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.jobs.lines import index_lines
from nemo_speechlm.units.inventory import UnitInventory

INVENTORY = UnitInventory("phoneme", "en", 100, ("SIL", "AH", "T"), silence="SIL")


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_what_is_written_is_read(tmp_path: Path, name: str):
    records = [{"text": "größer", "n": i} for i in range(3)]
    assert write_manifest(tmp_path / "new" / name, iter(records)) == 3
    assert list(read_manifest(tmp_path / "new" / name, ["text"])) == list(enumerate(records, start=1))


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, name: str):
    """As Windows' editors write it: a manifest was taken for lines of text, and text had another first character."""
    opened = gzip.open if name.endswith(".gz") else open
    for content, expected in (('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]), ("a b\nc\n", ["a b", "c"])):
        with opened(tmp_path / name, "wt", encoding="utf-8-sig") as file:
            file.write(content)
        assert list(read_sentences(tmp_path / name)) == expected
        run_job(tmp_path / name, tmp_path / "out", lambda: make_cleaning_work(None, name), settings={}, overwrite=True)
        assert [record["text"] for _, record in read_manifest(tmp_path / "out")] == content.splitlines()
        assert IndexedManifest(tmp_path / name)[0] == (1, content.splitlines()[0])


def test_a_damaged_gzip_file_is_named(tmp_path: Path):
    """Not cut off, but with bytes that are no code of its compression: zlib has an error of its own for that."""
    path = tmp_path / "a.json.gz"
    content = bytearray(gzip.compress(b"".join(b'{"text": "%d"}\n' % (i * i) for i in range(2000)), mtime=0))
    content[12:60] = bytes(byte ^ 0xFF for byte in content[12:60])
    path.write_bytes(content)
    for read in (
        lambda: list(read_manifest(path)),
        lambda: IndexedManifest(path),
        lambda: index_lines(path, tmp_path / "a"),
    ):
        with pytest.raises(InputError, match=r"a\.json\.gz: cannot be read.*invalid"):
            read()


def test_seconds_in_strings_are_numbers(tmp_path: Path):
    (tmp_path / "a.json").write_text(
        '{"offset": "1.5", "duration": "2", "text": "3"}\n{"offset": "nan"}\n{"offset": "x"}'
    )
    records = [record for _, record in read_manifest(tmp_path / "a.json")]
    assert records == [{"offset": 1.5, "duration": 2.0, "text": "3"}, {"offset": "nan"}, {"offset": "x"}]


def test_text_is_written_as_it_is():
    assert dump_line({"text": "größer"}) == '{"text": "größer"}\n'


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def records():
        yield {"text": "new"}
        raise KeyError

    with pytest.raises(KeyError):
        write_manifest(path, records())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n\n{"text": }\n', r"a\.json:3: not JSON \(Expecting value at column 10\): '\{\"text\": \}'"),
        ('{"text": "a"}\nplain words\n', r"a\.json:2: not JSON"),
        ("[1]\n", r"a\.json:1: expected a JSON object, found list"),
        ('{"text": "a"}\n{"test": "b"}\n', r"a\.json:2: no key 'text'; it has test"),
        ("", r"a\.json: the manifest is empty"),
        ("\n\n", r"a\.json: the manifest is empty"),
    ],
)
def test_bad_lines(tmp_path: Path, content: str, message: str):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        list(read_manifest(tmp_path / "a.json", ["text"]))


def test_missing_not_text_and_broken_gzip(tmp_path: Path):
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        list(read_manifest(tmp_path / "none.json"))
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        list(read_manifest(tmp_path))
    (tmp_path / "a.json").write_bytes(b'{"text": "\xff"}\n')
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        list(read_manifest(tmp_path / "a.json"))
    (tmp_path / "a.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        list(read_manifest(tmp_path / "a.gz"))


def test_audio_paths_are_relative_to_the_manifest(tmp_path: Path):
    assert audio_path({"audio_filepath": "x/a.wav"}, tmp_path / "m.json") == tmp_path / "x" / "a.wav"
    assert audio_path({"audio_filepath": "/x/a.wav"}, tmp_path / "m.json") == Path("/x/a.wav")


@pytest.mark.parametrize("units", ["SIL AH", ["SIL", "AH"], [0, 1], ["SIL", 1]])
def test_units_in_every_form(units: object):
    sequence = unit_sequence({"units": units, "unit_durations": [2, 3], "duration": 0.06}, INVENTORY, "m", 1)
    assert sequence.ids == [0, 1]
    assert sequence.expand().tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"units": "SIL EH", "unit_durations": [1, 1]}, "m.json:7: unit 1 is 'EH', which is not among the 3 units"),
        ({"units": [0, 3], "unit_durations": [1, 1]}, "m.json:7: unit 1 is id 3, the inventory has 3 units"),
        ({"units": [0, True], "unit_durations": [1, 1]}, "m.json:7: unit 1 is True"),
        ({"units": "SIL"}, "m.json:7: units without unit_durations"),
        ({"units": "SIL AH", "unit_durations": [1]}, "m.json:7: 2 units but 1 unit_durations"),
        ({"units": "SIL AH", "unit_durations": [1, 0]}, "m.json:7: unit_durations must be whole frames of at least 1"),
        ({"units": "SIL AH", "unit_durations": [1, 2.5]}, "m.json:7: unit_durations must be whole frames"),
        ({"units": {"a": 1}, "unit_durations": [1]}, "m.json:7: units must be a list or a string, found dict"),
        (
            {"units": "SIL AH", "unit_durations": [50, 50], "duration": 2},
            "m.json:7: units last 100 frames, 2 s of audio are 200 frames at 100 per second",
        ),
    ],
)
def test_units_that_do_not_fit(record: dict, message: str):
    with pytest.raises(InputError) as error:
        unit_sequence(record, INVENTORY, "m.json", 7)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("off", range(-4, 5))
def test_tolerance_of_frames(off: int):
    record = json.loads(json.dumps({"units": [0, 1], "unit_durations": [50, 50 + off], "duration": 1.0}))
    if abs(off) <= FRAME_TOLERANCE:
        assert unit_sequence(record, INVENTORY, "m", 1).num_frames == 100 + off
    else:
        with pytest.raises(InputError, match="another frame rate"):
            unit_sequence(record, INVENTORY, "m", 1)

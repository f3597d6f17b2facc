import json

import numpy as np
import pytest
import soundfile

from nemo_speechlm.data.corpora.covost2 import list_covost2
from nemo_speechlm.errors import InputError
from tests.functional.commands import run_example

ROWS = [
    ("client_id", "path", "sentence", "translation"),
    ("alice", "one.mp3", 'Il a dit "non".', 'He said "no".'),
    ("bob", "two", "Deux  mots", "Two words"),
    ("bob", "three.mp3", "Rien", " "),
]


@pytest.fixture
def table(tmp_path):
    (tmp_path / "clips").mkdir()
    for name, seconds in (("one", 1.0), ("two", 1.5), ("three", 1.0)):
        soundfile.write(tmp_path / "clips" / f"{name}.mp3", np.zeros(int(48000 * seconds)), 48000, format="MP3")
    path = tmp_path / "covost_v2.fr_en.train.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_manifest_of_text_and_translation(capsys, tmp_path, table):
    output = tmp_path / "train.json"
    arguments = ["corpus=covost2", f"source={table}", f"output={output}", "workers=1"]
    assert run_example("prepare_data.py", *arguments) == 0
    assert "2 written, 1 left out" in capsys.readouterr().out
    one, two = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert one == {
        "audio_filepath": "clips/one.mp3",
        "duration": pytest.approx(1.0, abs=0.1),
        "speaker": "alice",
        "text": 'He said "no".',
        "source_text": 'Il a dit "non".',
        "source_lang": "fr",
        "target_lang": "en",
    }
    assert (two["audio_filepath"], two["source_text"]) == ("clips/two.mp3", "Deux mots")
    skipped = json.loads((tmp_path / "train.json.skipped.jsonl").read_text())
    assert skipped["reason"] == "no translation"
    assert not list(tmp_path.glob(".partial*"))


def test_a_clip_that_is_not_there(capsys, tmp_path, table):
    (tmp_path / "clips" / "two.mp3").unlink()
    arguments = ["corpus=covost2", f"source={table}", f"output={tmp_path / 'train.json'}", "workers=1"]
    assert run_example("prepare_data.py", *arguments) == 1
    assert "two.mp3: no such audio file" in capsys.readouterr().err
    assert run_example("prepare_data.py", *arguments, "skip_bad=true") == 0


def test_what_is_wrong_with_a_table(tmp_path, table):
    listing = tmp_path / "listing"
    with pytest.raises(InputError, match="no such file; expected a table of CoVoST 2"):
        list_covost2(tmp_path / "nothing.tsv", listing)
    with pytest.raises(InputError, match="no such folder; expected Common Voice's clips"):
        list_covost2(table, listing, clips=tmp_path / "nowhere")
    other = tmp_path / "train.tsv"
    other.write_text(table.read_text())
    with pytest.raises(InputError, match="does not say the languages; give source_lang="):
        list_covost2(other, listing)
    assert list_covost2(other, listing, source_lang="fr", target_lang="de") == 3
    assert json.loads(listing.read_text().splitlines()[0])["target_lang"] == "de"
    table.write_text("path\tsentence\nx\ty\n")
    with pytest.raises(InputError, match=r"train\.tsv:1: no column translation; it has path, sentence"):
        list_covost2(table, listing)
    table.write_text("path\tsentence\ttranslation\nx.mp3\ty\n")
    with pytest.raises(InputError, match=":2: fewer columns than the header"):
        list_covost2(table, listing)
    table.write_text("path\tsentence\ttranslation\n")
    with pytest.raises(InputError, match="no lines but its header"):
        list_covost2(table, listing)

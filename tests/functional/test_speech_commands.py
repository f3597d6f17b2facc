"""From audio files to manifests with units, as a user does it."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import phoneme_inventory


def tokenize(run, manifest, output, *arguments):
    units = output.parent / "units.json"
    return run(
        "tokenize_speech.py", f"manifest={manifest}", f"output={output}", f"units={units}", "workers=1", *arguments
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A demo corpus with a few utterances, and one manifest ``both.json`` of transcribed and untranscribed ones."""
    pytest.importorskip("espeakng_loader")
    from nemo_speechlm.data.corpora.demo.corpus import DemoAmounts, make_demo_corpus

    folder = tmp_path_factory.mktemp("demo")
    made = make_demo_corpus(folder, seed=5, amounts=DemoAmounts(0.15, 0.15, 0.01, 0.01, sentences=2000))
    (folder / "both.json").write_text(made.train.read_text() + made.untranscribed.read_text())
    return folder


def records(manifest):
    return [record for _, record in read_manifest(manifest)]


def test_align_and_decode(run, corpus, tmp_path):
    status, printed = tokenize(
        run, corpus / "both.json", tmp_path / "a.json", f"lm_text={corpus / 'text.txt'}", "keep_text=true"
    )
    assert status == 0, printed
    inventory = UnitInventory.load(tmp_path / "units.json")
    assert inventory.symbols == phoneme_inventory().symbols
    assert set(inventory.durations) == set(inventory.symbols)
    found = records(tmp_path / "a.json")
    given = records(corpus / "both.json")
    assert f"{len(given)} written, 0 left out" in printed
    for number, (record, before) in enumerate(zip(found, given, strict=True), start=1):
        sequence = unit_sequence(record, inventory, tmp_path / "a.json", number)
        assert sequence.num_frames == round(record["duration"] * 100)
        assert Path(record["audio_filepath"]).is_file()  # absolute, for the manifest lies elsewhere
        assert record.get("text") == before.get("text")
        assert ("decoded_text" in record) == ("confidence" in record) == ("text" not in before)
    assert (tmp_path / "a.json.lm.arpa").exists()

    # the model it made does the same again, in two processes
    status, printed = tokenize(
        run,
        corpus / "both.json",
        tmp_path / "b.json",
        f"lm={tmp_path / 'a.json.lm.arpa'}",
        "keep_text=true",
        "workers=2",
    )
    assert status == 0, printed
    assert records(tmp_path / "b.json") == found
    assert UnitInventory.load(tmp_path / "units.json") == inventory


def test_goes_on_where_it_was(run, corpus, tmp_path):
    tokenize(run, corpus / "train.json", tmp_path / "a.json", "style=plain")
    whole = (tmp_path / "a.json").read_text()
    bad = tmp_path / "m.json"
    lines = (corpus / "train.json").read_text().replace('"train/', f'"{corpus}/train/').splitlines(keepends=True)
    bad.write_text("".join(lines))
    moved = Path(json.loads(lines[-1])["audio_filepath"])
    moved.rename(moved.with_suffix(".away"))
    try:
        status, printed = tokenize(run, bad, tmp_path / "b.json", "style=plain")
        assert (status, (tmp_path / "b.json").exists()) == (1, False)
        assert f"{bad}:{len(lines)}: {moved}: no such audio file" in printed
    finally:
        moved.with_suffix(".away").rename(moved)
    status, printed = tokenize(run, bad, tmp_path / "b.json", "style=plain")
    assert f"{len(lines) - 1}/{len(lines)}" in printed  # the bar begins there
    assert (tmp_path / "b.json").read_text() == whole


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "m.json:2: not JSON"),
        ('{"audio": "x.wav"}', "m.json:2: no key 'audio_filepath'"),
        ('{"audio_filepath": "x.wav", "text": "a"}', "x.wav: no such audio file"),
        ('{"audio_filepath": "empty.wav", "text": "a"}', "empty.wav: audio with no samples"),
        ('{"audio_filepath": "noise.wav", "text": "a"}', "noise.wav: not audio that can be read"),
        ('{"audio_filepath": "good.wav", "text": "a", "duration": 9}', "duration is 9 s, but the audio of"),
        ('{"audio_filepath": "good.wav", "text": 3}', "m.json:2: 'text' is 3, expected a string"),
        ('{"audio_filepath": "good.wav", "text": ""}', "m.json:2: no text to align with"),
    ],
)
def test_bad_lines(run, corpus, tmp_path, line, message):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "good.wav", np.zeros(16000), 16000)
    (tmp_path / "noise.wav").write_text("noise" * 100)
    good = json.dumps({**records(corpus / "train.json")[0], "audio_filepath": f"{corpus}/train/00000.flac"})
    (tmp_path / "m.json").write_text(f"{good}\n{line}\n")
    status, printed = tokenize(run, tmp_path / "m.json", tmp_path / "o.json", "method=align")
    assert status == 1
    assert message in printed
    assert "Traceback" not in printed
    status, printed = tokenize(run, tmp_path / "m.json", tmp_path / "o.json", "method=align", "skip_bad=true")
    assert status == 0
    assert "1 written, 1 left out" in printed
    (skipped,) = records(tmp_path / "o.json.skipped.jsonl")
    assert (skipped["file"], skipped["line"]) == (str(tmp_path / "m.json"), 2)


def test_units_of_another_kind(run, corpus, tmp_path):
    plain = phoneme_inventory("plain")
    for inventory, message in (
        (plain, "was it made with another style?"),
        (UnitInventory("hidden", "en", 50, ("0", "1")), "hidden units"),
        (UnitInventory("phoneme", "en", 50, phoneme_inventory().symbols, "SIL"), "frame_rate is 50"),
    ):
        inventory.save(tmp_path / "units.json")
        status, printed = tokenize(run, corpus / "train.json", tmp_path / "o.json")
        assert (status, (tmp_path / "o.json").exists()) == (1, False)
        assert message in printed
        assert f"{tmp_path / 'units.json'}: " in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=guess"], "method is 'guess', expected auto, align or decode"),
        (["style=odd"], "no phoneme style 'odd'"),
        (["workers=many"], "workers is 'many'"),
        (["method=decode", "lm=x.arpa"], "x.arpa: no such file"),
        (["method=decode", "lm_text=x.txt"], "x.txt: no such file"),
        (["method=decode", f"lm_text={__file__}", f"lm={__file__}"], "lm and lm_text are both given"),
        ([f"lm_text={__file__}", f"dictionary={__file__}"], "dictionary and lm_text are both given"),
        (["lexicon=x.txt"], "x.txt: no such file"),
        (["min_confidence=high"], "min_confidence is 'high'"),
        (["channel=left"], "channel is 'left'"),
    ],
)
def test_bad_options(run, corpus, tmp_path, arguments, message):
    status, printed = tokenize(run, corpus / "train.json", tmp_path / "o.json", *arguments)
    assert status == 1
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "o.json").exists()


def test_output_is_not_overwritten(run, corpus, tmp_path):
    (tmp_path / "o.json").write_text("mine")
    status, printed = tokenize(run, corpus / "train.json", tmp_path / "o.json")
    assert (status, (tmp_path / "o.json").read_text()) == (1, "mine")
    assert "exists already" in printed


def test_durations_of_an_output_that_is_replaced_are_found_anew(run, tmp_path):
    """Those of another manifest that shares the units do not replace them."""
    for name in ("train", "valid"):
        soundfile.write(tmp_path / f"{name}.wav", np.full(16000, 0.1), 16000)
        (tmp_path / f"{name}.json").write_text(json.dumps({"audio_filepath": f"{name}.wav", "duration": 1.0}) + "\n")
    arguments = ["speech_tokenizer=imported", f"alignments={tmp_path / 'a.ctm'}", "style=as_is"]

    def durations(name, each, *more):
        phones = [f"{name} 1 {each * i:.2f} {each} {'B' if i % 2 else 'AA'}" for i in range(round(1 / each))]
        (tmp_path / "a.ctm").write_text("\n".join(phones) + "\n")
        status, printed = tokenize(run, tmp_path / f"{name}.json", tmp_path / f"{name}_units.json", *arguments, *more)
        assert status == 0, printed
        return UnitInventory.load(tmp_path / "units.json").durations, printed

    first, _ = durations("train", 0.05)
    assert durations("valid", 0.25)[0] == first
    assert durations("valid", 0.1, "overwrite=true")[0] == first
    later, printed = durations("train", 0.25, "overwrite=true")
    assert later["AA"].mean > first["AA"].mean
    assert "units.json: its durations are those of the new output" in printed


def test_folder_to_manifest_and_back(run, corpus, tmp_path):
    output = corpus / "found.json"
    arguments = ["corpus=folder", f"source={corpus / 'train'}", f"output={output}", "workers=1"]
    transcripts = tmp_path / "t.txt"
    transcripts.write_text(
        "".join(f"{Path(r['audio_filepath']).stem} {r['text'].upper()}\n" for r in records(corpus / "train.json"))
    )
    status, printed = run("prepare_data.py", *arguments, f"transcripts={transcripts}")
    assert status == 0, printed
    expected = [{k: r[k] for k in ("audio_filepath", "duration", "text")} for r in records(corpus / "train.json")]
    assert records(output) == expected
    status, printed = run("prepare_data.py", "corpus=manifest", f"source={output}", f"output={tmp_path / 'c.json'}")
    assert status == 0, printed
    assert [r["text"] for r in records(tmp_path / "c.json")] == [r["text"] for r in expected]


def test_folder_with_a_bad_file(run, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    (tmp_path / "b.wav").write_text("noise" * 100)
    arguments = [f"source={tmp_path}", f"output={tmp_path / 'm.json'}", "workers=1"]
    status, printed = run("prepare_data.py", *arguments)
    assert status == 1
    assert f"{tmp_path / 'b.wav'}: not audio that can be read" in printed
    status, printed = run("prepare_data.py", *arguments, "skip_bad=true")
    assert status == 0
    assert records(tmp_path / "m.json") == [{"audio_filepath": "a.wav", "duration": 1.0}]
    assert [r["file"] for r in records(tmp_path / "m.json.skipped.jsonl")] == [str(tmp_path / "b.wav")]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus=other", "source=x"], "corpus is 'other'"),
        (["source=missing"], "missing: no such folder"),
        ([], "not given: source"),
        (["source=.", "min_duration=short"], "min_duration is 'short'"),
    ],
)
def test_bad_options_of_prepare_data(run, tmp_path, arguments, message):
    status, printed = run("prepare_data.py", f"output={tmp_path / 'm.json'}", *arguments)
    assert status == 1
    assert message in printed

"""Training an aligner and aligning with it, as commands, on speech that espeak-ng speaks."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_speechlm.alignment import training
from nemo_speechlm.alignment.file import load_aligner
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.tokenizers.gmm import training as gmm_training
from nemo_speechlm.tokenizers.gmm.model_file import load_model
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import base_phone
from tests.functional.commands import run_example

QUICK = ("plan.passes=7", "plan.tied_passes=4", "plan.components=160", "plan.settle=1", "threads=1")


def run(example, *arguments):
    """Run a command in this process; returns its exit status and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        return run_example(example, *arguments), printed.getvalue()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A dozen or so utterances of a minute and a quarter."""
    pytest.importorskip("espeakng_loader")
    from nemo_speechlm.data.corpora.demo.corpus import DemoAmounts, make_demo_corpus

    folder = tmp_path_factory.mktemp("demo")
    make_demo_corpus(folder, seed=5, amounts=DemoAmounts(1.25, 0.1, 0.01, 0.01, sentences=2000))
    return folder


def train(manifest, output, *arguments):
    return run("train_aligner.py", f"manifest={manifest}", f"output={output}", *QUICK, *arguments)


def align(model, manifest, output, *arguments):
    units = Path(output).parent / "units.json"
    return run(
        "tokenize_speech.py",
        "speech_tokenizer=gmm",
        f"model={model}",
        f"manifest={manifest}",
        f"output={output}",
        f"units={units}",
        "workers=1",
        *arguments,
    )


@pytest.fixture(scope="module")
def trained(corpus):
    """A trained aligner's file, and what the command printed."""
    output = corpus / "aligner.safetensors"
    status, printed = train(corpus / "train.json", output)
    assert status == 0, printed
    return output, printed


def records(path):
    return [record for _, record in read_manifest(path)]


def test_training_and_aligning(corpus, trained, tmp_path):
    path, printed = trained
    given = records(corpus / "train.json")
    assert f"trained on {len(given)} utterances" in printed
    assert "0 left out" in printed
    likelihoods = [
        float(line.split()[1]) for line in printed.splitlines() if line.split()[:1] and line[:4].strip().isdigit()
    ]
    assert len(likelihoods) == 7
    assert likelihoods[-1] > likelihoods[0] + 3
    assert Path(f"{path}.png").stat().st_size > 5000
    assert not list(path.parent.glob(".partial*"))

    status, printed = align(path, corpus / "train.json", tmp_path / "a.json")
    assert status == 0, printed
    inventory = UnitInventory.load(tmp_path / "units.json")
    phonemizer = EnglishPhonemizer()
    for number, (record, before) in enumerate(zip(records(tmp_path / "a.json"), given, strict=True), start=1):
        sequence = unit_sequence(record, inventory, tmp_path / "a.json", number)
        assert sequence.num_frames == round(record["duration"] * 100)
        said = [unit for unit in record["units"].split() if unit != "SIL"]
        words = " ".join(said).replace("_E", "_E|").replace("_S", "_S|").split("|")[:-1]
        assert len(words) == len(before["text"].split())
        for word, units in zip(before["text"].split(), words, strict=True):
            known = {tuple(map(base_phone, phones)) for phones in phonemizer.pronunciations(word)}
            assert tuple(map(base_phone, units.split())) in known

    # the same in two processes
    status, printed = align(path, corpus / "train.json", tmp_path / "b.json", "workers=2")
    assert status == 0, printed
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()


def test_a_channel_has_the_statistics_of_itself(corpus, trained, tmp_path):
    """The speaker's means are those of the channel that is aligned, not of the mix with another signal."""
    lines = records(corpus / "train.json")[:3]
    mono, stereo = tmp_path / "mono.json", tmp_path / "stereo.json"
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
    for number, record in enumerate(lines):
        samples, rate = soundfile.read(corpus / record["audio_filepath"])
        noise = np.random.default_rng(number).normal(0, 0.2, len(samples))
        soundfile.write(tmp_path / "one" / f"{number}.wav", samples, rate)
        soundfile.write(tmp_path / "two" / f"{number}.wav", np.stack([noise, samples], 1), rate)
    for path, folder in ((mono, "one"), (stereo, "two")):
        write_manifest(path, [r | {"audio_filepath": f"{folder}/{i}.wav"} for i, r in enumerate(lines)])
    for path, options in ((mono, []), (stereo, ["channel=1"])):
        status, printed = align(trained[0], path, path.with_suffix(".units.json"), *options)
        assert status == 0, printed
    ours, theirs = (records(path.with_suffix(".units.json")) for path in (mono, stereo))
    assert [r["unit_durations"] for r in ours] == [r["unit_durations"] for r in theirs]
    assert [r["units"] for r in ours] == [r["units"] for r in theirs]


def test_agrees_with_pocketsphinx(corpus, trained, tmp_path):
    """Two aligners that know nothing of each other put most frames in the same phone."""
    align(trained[0], corpus / "train.json", tmp_path / "ours.json")
    run(
        "tokenize_speech.py",
        f"manifest={corpus / 'train.json'}",
        f"output={tmp_path / 'theirs.json'}",
        f"units={tmp_path / 'units.json'}",
        "workers=1",
    )
    same = []
    for ours, theirs in zip(records(tmp_path / "ours.json"), records(tmp_path / "theirs.json"), strict=True):
        a, b = (np.repeat([base_phone(u) for u in r["units"].split()], r["unit_durations"]) for r in (ours, theirs))
        same.append(a == b)
    assert np.concatenate(same).mean() > 0.6


def test_goes_on_after_an_interruption(corpus, trained, tmp_path, monkeypatch):
    output = tmp_path / "aligner.safetensors"
    real, calls = training.train_pass, []

    def dies(corpus, state, plan, step):
        calls.append(len(state.reports))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(corpus, state, plan, step)

    monkeypatch.setattr(gmm_training, "train_pass", dies)
    status, printed = train(corpus / "train.json", output)
    assert status == 130
    assert "run the same command again" in printed
    assert not output.exists()
    monkeypatch.setattr(gmm_training, "train_pass", lambda *a: calls.append(len(a[1].reports)) or real(*a))
    status, printed = train(corpus / "train.json", output)
    assert status == 0, printed
    assert calls == [0, 1, 2, 3, 3, 4, 5, 6]
    ours, whole = (load_aligner(path).aligner for path in (output, trained[0]))
    np.testing.assert_allclose(ours.mixtures.means, whole.mixtures.means, atol=1e-5)
    np.testing.assert_allclose(ours.stay, whole.stay, atol=1e-6)


def test_other_settings_are_refused_or_begin_anew(corpus, tmp_path, monkeypatch):
    real, calls = training.train_pass, []

    def dies(corpus, state, plan, step):
        calls.append(len(state.reports))
        if len(calls) > 1:
            raise KeyboardInterrupt
        return real(corpus, state, plan, step)

    monkeypatch.setattr(gmm_training, "train_pass", dies)
    train(corpus / "train.json", tmp_path / "a.safetensors")
    status, printed = train(corpus / "train.json", tmp_path / "a.safetensors", "plan.components=150")
    assert status == 1
    assert "its training was begun with another components (" in printed
    assert calls == [0, 1]
    train(corpus / "train.json", tmp_path / "a.safetensors", "plan.components=150", "overwrite=true")
    assert calls == [0, 1, 0]


def test_a_lexicon_in_another_language(corpus, tmp_path):
    """Words of a lexicon alone, in phones of its own; what it lacks is an error or left out."""
    given = records(corpus / "train.json")[:8]
    words = sorted({word for record in given for word in record["text"].split()})
    phonemizer = EnglishPhonemizer()
    lines = [
        f"{word}\t{' '.join('x' + base_phone(phone).lower() for phone in variant)}\n"
        for word in words
        for variant in phonemizer.pronunciations(word)[:2]
    ]
    (tmp_path / "lexicon.txt").write_text("".join(lines))
    (tmp_path / "m.json").write_text(
        "".join(json.dumps({**r, "audio_filepath": str(corpus / r["audio_filepath"])}) + "\n" for r in given)
    )
    options = ["language.code=xx", "phonemizer=null", f"lexicon={tmp_path / 'lexicon.txt'}", "plan.passes=2"]
    status, printed = train(tmp_path / "m.json", tmp_path / "a.safetensors", *options)
    assert status == 0, printed
    model = load_model(tmp_path / "a.safetensors")
    assert model.inventory.language == "xx"
    assert set(model.pronouncing.lexicon) == set(words)
    (tmp_path / "lexicon.txt").unlink()  # the model has it
    status, printed = align(tmp_path / "a.safetensors", tmp_path / "m.json", tmp_path / "u.json")
    assert status == 0, printed
    assert all(
        unit == "SIL" or unit.startswith("x") for r in records(tmp_path / "u.json") for unit in r["units"].split()
    )

    word = given[0]["text"].split()[0]
    (tmp_path / "less.txt").write_text("".join(line for line in lines if not line.startswith(f"{word}\t")))
    options[2] = f"lexicon={tmp_path / 'less.txt'}"
    status, printed = train(tmp_path / "m.json", tmp_path / "b.safetensors", *options)
    assert (status, (tmp_path / "b.safetensors").exists()) == (1, False)
    assert f"1 words have no pronunciation: {word}; add them to the lexicon" in printed
    status, printed = train(tmp_path / "m.json", tmp_path / "b.safetensors", *options, "skip_bad=true")
    assert status == 0, printed
    skipped = records(tmp_path / "b.safetensors.skipped.jsonl")
    assert {record["reason"] for record in skipped} == {f"no pronunciation of {word!r}"}
    assert skipped[0]["line"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["manifest=none.json"], "none.json: no such file"),
        (["plan.passes=many"], "passes is 'many'"),
        (["plan.tied_passes=-1"], "tied_passes is -1"),
        (["+plan.speed=1"], "plan: "),
        (["device=warp"], "device is 'warp'"),
        (["states=0"], "states is 0"),
        (["phonemizer=null"], "nothing says how words are pronounced"),
        (["max_hours=none"], "max_hours is 'none'"),
        (["units=none.json"], "none.json"),
    ],
)
def test_bad_options(corpus, tmp_path, arguments, message):
    status, printed = train(corpus / "train.json", tmp_path / "a.safetensors", *arguments)
    assert status == 1
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "a.safetensors").exists()


def test_untranscribed_and_damaged(corpus, trained, tmp_path):
    status, printed = train(corpus / "untranscribed.json", tmp_path / "a.safetensors")
    assert status == 1
    assert "untranscribed.json:1: no text to align with" in printed
    status, printed = align(trained[0], corpus / "untranscribed.json", tmp_path / "u.json")
    assert status == 1
    assert "untranscribed.json:1: no text to align with" in printed
    shutil.copy(trained[0], tmp_path / "cut.safetensors")
    with open(tmp_path / "cut.safetensors", "rb+") as file:
        file.truncate(5000)
    status, printed = align(tmp_path / "cut.safetensors", corpus / "train.json", tmp_path / "u.json")
    assert status == 1
    assert "cut.safetensors: not an aligner, or damaged" in printed


def test_imported_alignments(corpus, trained, tmp_path):
    """What we align goes out as a CTM and comes back the same."""
    align(trained[0], corpus / "train.json", tmp_path / "a.json")
    lines = []
    for record in records(tmp_path / "a.json"):
        starts = np.cumsum([0, *record["unit_durations"]])
        for unit, start, frames in zip(record["units"].split(), starts, record["unit_durations"], strict=False):
            lines.append(f"{Path(record['audio_filepath']).stem} 1 {start / 100:.2f} {frames / 100:.2f} {unit}\n")
    (tmp_path / "a.ctm").write_text("".join(lines))
    status, printed = run(
        "tokenize_speech.py",
        "speech_tokenizer=imported",
        f"alignments={tmp_path / 'a.ctm'}",
        f"manifest={corpus / 'train.json'}",
        f"output={tmp_path / 'b.json'}",
        f"units={tmp_path / 'units.json'}",
        "workers=1",
    )
    assert status == 0, printed
    for ours, back in zip(records(tmp_path / "a.json"), records(tmp_path / "b.json"), strict=True):
        assert (back["units"], back["unit_durations"]) == (ours["units"], ours["unit_durations"])


def test_several_manifests_are_as_one(corpus, trained, tmp_path):
    lines = (corpus / "train.json").read_text().splitlines(keepends=True)
    for number, part in enumerate((lines[:4], lines[4:])):
        (corpus / f"train_{number}.json").write_text("".join(part))  # audio lies beside the manifest
    status, printed = train(f"{corpus}/train__OP_0..1_CL_.json", tmp_path / "aligner.safetensors")
    assert status == 0, printed
    assert (tmp_path / "aligner.safetensors").read_bytes() == trained[0].read_bytes()
    assert f"trained on {len(lines)} utterances" in printed


def test_what_is_left_out_names_its_manifest(corpus, tmp_path):
    (corpus / "bad.json").write_text('{"audio_filepath": "gone.wav", "text": "a word", "duration": 1.0}\n')
    manifests = f"[{corpus}/bad.json,{corpus}/train.json]"
    status, printed = train(manifests, tmp_path / "aligner.safetensors", "skip_bad=true", "plan.passes=1")
    assert status == 0, printed
    (left_out,) = list(read_manifest(tmp_path / "aligner.safetensors.skipped.jsonl"))
    assert (left_out[1]["file"], left_out[1]["line"]) == (f"{corpus}/bad.json", 1)

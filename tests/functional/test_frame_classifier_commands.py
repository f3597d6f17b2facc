"""Training of a frame classifier and tokenizing with it, as a user does it."""

import json

import pytest

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.jobs.progress import progress_path
from nemo_speechlm.testing.corpora import tiny_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=8)


def training(corpus, folder, *changes):
    return [
        "--config-name=frame_classifier_small",
        f"output={folder / 'classifier.nemo'}",
        f"exp_manager.exp_dir={folder / 'runs'}",
        f"model.units={corpus.units}",
        f"model.train_ds.speech.manifest_filepath={corpus.speech}",
        f"model.validation_ds.speech.manifest_filepath={corpus.speech}",
        "model.encoder.n_layers=1",
        "model.encoder.d_model=32",
        "model.encoder.subsampling_conv_channels=8",
        "model.train_ds.speech.batch_duration=8",
        "model.train_ds.speech.num_buckets=2",
        "model.train_ds.num_workers=0",
        "model.optim.sched.warmup_steps=2",
        "trainer.accelerator=cpu",
        "trainer.max_steps=12",
        "trainer.val_check_interval=6",
        *changes,
    ]


def test_train_and_tokenize(run, corpus, tmp_path):
    status, printed = run("train_frame_classifier.py", *training(corpus, tmp_path))
    assert status == 0, printed
    assert (tmp_path / "classifier.nemo").exists()

    untranscribed = tmp_path / "untranscribed.json"
    with untranscribed.open("w") as file:
        for _, record in read_manifest(corpus.speech):
            path = str(corpus.speech.parent / record["audio_filepath"])
            file.write(json.dumps({"audio_filepath": path, "duration": record["duration"]}) + "\n")

    def tokenize(output, *arguments):
        return run(
            "tokenize_speech.py",
            "speech_tokenizer=frame_classifier",
            f"model={tmp_path / 'classifier.nemo'}",
            f"manifest={untranscribed}",
            f"output={output}",
            f"units={tmp_path / 'units.json'}",
            "device=cpu",
            "workers=1",
            *arguments,
        )

    status, printed = tokenize(tmp_path / "a.json")
    assert status == 0, printed
    records = [record for _, record in read_manifest(tmp_path / "a.json")]
    assert len(records) == 8
    symbols = set(json.loads(corpus.units.read_text())["symbols"])
    for record in records:
        assert set(record["units"].split()) <= symbols
        assert sum(record["unit_durations"]) == round(record["duration"] * 100)
        assert min(record["unit_durations"]) >= 3
    assert (tmp_path / "units.json").exists()  # made, with durations

    # a bad line leaves nothing behind, and how utterances are batched changes nothing
    whole = (tmp_path / "a.json").read_bytes()
    manifest, output = untranscribed.read_text(), tmp_path / "b.json"
    untranscribed.write_text(manifest + json.dumps({"audio_filepath": "gone.wav", "duration": 1.0}) + "\n")
    status, printed = tokenize(output)
    assert status == 1
    assert f"{untranscribed}:9" in printed
    assert not output.exists()
    assert not progress_path(output).exists()  # all lines were in one batch, so there is nothing to keep
    untranscribed.write_text(manifest)
    status, printed = tokenize(output, "batch_duration=30")
    assert status == 0, printed
    assert output.read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.train_ds.speech.manifest_filepath=nowhere.json"], "nowhere.json"),
        (["model.units=nowhere.json"], "nowhere.json: no such file"),
        (["model.classes.parts=4"], "min_duration is 3"),
        (["output=x.ckpt"], "must end in .nemo"),
    ],
)
def test_bad_input_to_training(run, corpus, tmp_path, changes, message):
    status, printed = run("train_frame_classifier.py", *training(corpus, tmp_path), *changes)
    assert status == 1
    assert message in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "no such file"),
        (b"not a model", [], "cannot be restored"),
        (b"not a model", ["lm_weight=much"], "lm_weight is 'much'"),
    ],
)
def test_bad_input_to_tokenizing(run, corpus, tmp_path, content, arguments, message):
    model = tmp_path / "damaged.nemo"
    if content is not None:
        model.write_bytes(content)
    common = [f"manifest={corpus.speech}", f"output={tmp_path / 'o.json'}", f"units={tmp_path / 'u.json'}"]
    status, printed = run(
        "tokenize_speech.py", "speech_tokenizer=frame_classifier", f"model={model}", *common, *arguments
    )
    assert status == 1
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "o.json").exists()
    assert not (tmp_path / "u.json").exists()

"""Transcription as a user runs it, on files of every kind, with a model that was not trained."""

import json
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from nemo_speechlm.models import SpeechLMCTCModel
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_labels
from tests.functional.commands import run_example


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "ctc.nemo"
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    SpeechLMCTCModel(OmegaConf.create({**tiny_architecture(), "labels": tiny_labels(), "decoder": head})).save_to(
        str(path)
    )
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    (folder / "deep").mkdir()
    soundfile.write(folder / "stereo.flac", rng.uniform(-0.3, 0.3, (3 * 48000, 2)), 48000)
    soundfile.write(folder / "deep" / "long.ogg", rng.uniform(-0.3, 0.3, 25 * 8000), 8000)
    soundfile.write(folder / "short.wav", rng.uniform(-0.3, 0.3, 160), 16000)
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "notes.wav").write_text("not audio\n" * 50)
    (folder / "notes.txt").write_text("not audio\n")
    return folder


def test_folders_with_good_and_bad_files(capsys, tmp_path, model, recordings):
    arguments = [f"model={model}", f"input={recordings}", f"output={tmp_path}", "format=[text,json,srt]", "device=cpu"]
    arguments += ["max_segment=10", "batch_duration=20"]
    assert run_example("transcribe.py", *arguments) == 1
    error = capsys.readouterr().err
    assert "2 of 6 files failed; the others are done" in error
    assert "empty.wav: audio with no samples: the file is empty" in error
    assert "notes.wav: not audio that can be read" in error
    assert "Traceback" not in error
    assert "TqdmWarning" not in error  # more audio done than the headers say
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    stems = ("stereo", "deep/long", "short", "silent")
    made = {f"{stem}.{suffix}" for stem in stems for suffix in ("txt", "json", "srt")}
    assert names == {*made, ".made_with.jsonl"}
    long = json.loads((tmp_path / "deep" / "long.json").read_text())
    assert long["duration"] == pytest.approx(25, abs=0.01)
    assert len(long["segments"]) >= 3
    assert long["segments"][-1]["end"] == pytest.approx(25, abs=0.01)
    for one, other in pairwise(long["segments"]):
        assert one["end"] == pytest.approx(other["start"], abs=0.01)
    for segment in long["segments"]:
        words = segment.get("words", [])
        assert " ".join(word["word"] for word in words) == segment["text"]
        assert all(segment["start"] <= w["start"] <= w["end"] <= segment["end"] + 0.05 for w in words)
    assert json.loads((tmp_path / "silent.json").read_text())["segments"] == []

    # What is there is not done again.
    (tmp_path / "short.txt").write_text("mine\n")
    assert run_example("transcribe.py", *arguments) == 1
    assert "4 of 6 files have their transcripts already" in capsys.readouterr().err
    assert (tmp_path / "short.txt").read_text() == "mine\n"

    # Nor taken for what other options would make.
    assert run_example("transcribe.py", *arguments, "max_segment=12", "decoding=beam") == 1
    error = capsys.readouterr().err
    assert "was made with max_segment 10, now 12; decoding null, now beam. Give another output, or" in error
    assert (tmp_path / "short.txt").read_text() == "mine\n"


def test_a_file_to_the_terminal(capsys, model, recordings):
    path = recordings / "stereo.flac"
    assert (
        run_example("transcribe.py", f"model={model}", f"input={path}", "device=cpu", "format=json", "decoding=beam")
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["audio_filepath"] == str(path)
    assert found["duration"] == pytest.approx(3, abs=0.01)


def test_segments_are_no_longer_than_the_model_takes(capsys, model, recordings):
    path = recordings / "deep" / "long.ogg"  # 25 s; the model has 1000 positions of 20 ms
    arguments = [f"model={model}", f"input={path}", "device=cpu", "format=json", "max_segment=40", "min_segment=25"]
    assert run_example("transcribe.py", *arguments) == 0
    output = capsys.readouterr()
    assert "max_segment=40 is more than the model takes; cutting at 19.98 s" in output.err
    assert max(s["end"] - s["start"] for s in json.loads(output.out)["segments"]) <= 20


@pytest.mark.parametrize("decoding", ["null", "beam"])
def test_an_utterance_that_is_too_long_to_evaluate(capsys, tmp_path, model, recordings, decoding):
    (tmp_path / "m.json").write_text(json.dumps({"audio_filepath": str(recordings / "deep/long.ogg"), "text": "a"}))
    arguments = [f"model={model}", f"manifest={tmp_path / 'm.json'}", f"output={tmp_path / 'out'}", "device=cpu"]
    assert run_example("speechlm_evaluate.py", *arguments, f"decoding={decoding}") == 1
    error = capsys.readouterr().err
    assert "long.ogg: an utterance of 25.0 s; the model takes 19.98 s at most" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model=nowhere.nemo"], "nowhere.nemo: no such file"),
        (["format=pdf"], "format is 'pdf', expected one of text, json, srt"),
        (["format=[text,srt]"], "several formats need output=FOLDER"),
        (["decoding=ngram"], "decoding=ngram needs a language model"),
        (["min_segment=40"], "min_segment is 40"),
        (["input=nowhere.wav"], "error: nowhere.wav: no such audio file"),
    ],
)
def test_bad_options(capsys, model, recordings, changes, message):
    arguments = [f"model={model}", f"input={recordings / 'short.wav'}", "device=cpu", *changes]
    assert run_example("transcribe.py", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error

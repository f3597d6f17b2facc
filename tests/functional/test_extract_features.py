"""extract_features.py as a user runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.models import SpeechLMEncoderModel
from nemo_speechlm.models.common.restore import restore_extractor
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=5, n_text=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "encoder.nemo"
    torch.manual_seed(0)
    SpeechLMEncoderModel(OmegaConf.create(tiny_architecture())).save_to(str(path))
    return path


@pytest.fixture
def run(run, model):
    """The same with the model given."""
    return lambda *arguments: run("extract_features.py", f"model={model}", *arguments)


def records(folder):
    return [json.loads(line) for line in (folder / "features.jsonl").read_text().splitlines()]


def expected(model, path, layers=None):
    audio = torch.from_numpy(read_audio(path, 16000)).unsqueeze(0)
    states, _ = restore_extractor(model, "cpu").extract_features(audio, torch.tensor([audio.shape[1]]), layers)
    return torch.cat(states).numpy()


def test_all_layers_of_a_manifest(run, tmp_path, corpus, model):
    status, said = run(f"input={corpus.speech}", f"output={tmp_path / 'out'}")
    assert status == 0, said
    assert "5 utterances, 5 of them now" in said
    lines = records(tmp_path / "out")
    assert [Path(r["audio_filepath"]).name for r in lines] == [f"{i:04d}.wav" for i in range(5)]
    for record in lines:
        features = np.load(tmp_path / "out" / record["features_filepath"])
        assert features.shape == (2, record["num_frames"], 32)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, expected(model, record["audio_filepath"]), atol=1e-4)


def test_some_layers_as_safetensors(run, tmp_path, corpus, model):
    out = tmp_path / "out"
    status, said = run(f"input={corpus.speech}", f"output={out}", "layers=[-1]", "format=safetensors", "dtype=float16")
    assert status == 0, said
    record = records(out)[2]
    features = load_file(out / record["features_filepath"])
    assert list(features) == ["layer_2"]
    assert features["layer_2"].dtype == torch.float16
    assert len(features["layer_2"]) == record["num_frames"]
    np.testing.assert_allclose(features["layer_2"], expected(model, record["audio_filepath"], [1])[0], atol=1e-2)


def test_a_folder_for_hugging_face(run, tmp_path, corpus, model, monkeypatch):
    from nemo_speechlm.inference.features import shards as feature_shards

    monkeypatch.setattr(feature_shards, "SHARD_BYTES", 2**15)
    out, arguments = tmp_path / "out", (f"input={corpus.speech}", "format=huggingface")
    status, said = run(*arguments, f"output={out}")
    assert status == 0, said
    shards = sorted(path.name for path in (out / "data").iterdir())
    assert 1 < len(shards) <= 5
    datasets = pytest.importorskip("datasets")
    found = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache")).with_format("numpy")
    lines = records(out)
    assert len(found) == len(lines) == 5
    for row, record in zip(found, lines, strict=True):
        assert row["audio_filepath"] == record["audio_filepath"]
        assert row["text"] == record["text"]
        states = np.stack([row["layer_1"], row["layer_2"]])
        assert states.shape == (2, record["num_frames"], 32)
        np.testing.assert_allclose(states, expected(model, record["audio_filepath"]), atol=1e-4)
    before = {path.name: path.read_bytes() for path in (out / "data").iterdir()}
    (out / "data" / shards[1]).unlink()
    status, said = run(*arguments, f"output={out}")
    assert status == 0, said
    assert {path.name: path.read_bytes() for path in (out / "data").iterdir()} == before
    again = [int(line["features_row"]) for line in records(out)]
    assert again[0] == 0
    assert len(set(zip((line["features_filepath"] for line in records(out)), again, strict=True))) == 5


def test_goes_on_where_it_was_interrupted(run, tmp_path, corpus):
    out = tmp_path / "out"
    arguments = f"input={corpus.speech}", f"output={out}"
    run(*arguments)
    before = {p.name: p.read_bytes() for p in (out / "features").iterdir()}
    for name in list(before)[:2]:
        (out / "features" / name).unlink()
    (out / "features.jsonl").unlink()
    status, said = run(*arguments)
    assert status == 0, said
    assert "5 utterances, 2 of them now" in said
    after = {p.name: p.read_bytes() for p in (out / "features").iterdir()}
    assert after.keys() == before.keys()
    status, said = run(*arguments, "layers=[1]")
    assert status == 1
    assert "was made with another layers; give another output, or overwrite=true" in said
    status, said = run(*arguments, "layers=[1]", "overwrite=true")
    assert status == 0, said
    assert np.load(out / records(out)[0]["features_filepath"]).shape[0] == 1


def test_folders_files_and_parts(run, tmp_path, corpus):
    folder = tmp_path / "audio" / "inner"
    folder.mkdir(parents=True)
    audio = corpus.speech.parent / "audio"
    shutil.copy(audio / "0000.wav", folder / "one.wav")
    soundfile.write(tmp_path / "other.flac", np.random.default_rng(0).standard_normal(8000) * 0.1, 8000)
    parts = tmp_path / "parts.json"
    parts.write_text(json.dumps({"audio_filepath": "other.flac", "offset": 0.25, "duration": 0.5}) + "\n")
    given = ",".join(map(str, (tmp_path / "audio", tmp_path / "other.flac", parts)))
    status, said = run(f"input=[{given}]", f"output={tmp_path / 'out'}", "batch_duration=0")
    assert status == 0, said
    lines = records(tmp_path / "out")
    assert [Path(r["features_filepath"]).name for r in lines] == [
        "0000000_one.npy",
        "0000001_other.npy",
        "0000002_other.npy",
    ]
    assert [r["duration"] for r in lines[1:]] == [1.0, 0.5]
    assert lines[2]["num_frames"] < lines[1]["num_frames"]


def test_bad_audio(run, tmp_path, corpus):
    manifest = tmp_path / "m.json"
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing")
    good = corpus.speech.parent / "audio" / "0000.wav"
    manifest.write_text("".join(json.dumps({"audio_filepath": str(p)}) + "\n" for p in (good, "bad.wav", "gone.wav")))
    status, said = run(f"input={manifest}", f"output={tmp_path / 'out'}")
    assert status == 1
    assert f"{manifest}:2: " in said
    assert not (tmp_path / "out").exists()
    status, said = run(f"input={manifest}", f"output={tmp_path / 'out'}", "skip_bad=true")
    assert status == 0, said
    assert "1 utterances, 1 of them now, 2 left out" in said
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert [f"{manifest}:{n}: " in reason for n, reason in zip((2, 3), reasons, strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers=[3]"], "the model has layers 1 to 2"),
        (["layers=[0]"], "expected whole numbers from 1 on"),
        (["layers=[]"], "layers is empty"),
        (["layers=nine"], "layers is ['nine'], expected whole numbers"),
        (["batch_duration=-1"], "batch_duration is -1, expected a number of at least 0"),
        (["device=abacus"], "device is 'abacus', expected auto, cpu, cuda"),
        (["model=/"], "/: is a folder with no .nemo file in it; expected the .nemo file of a model"),
        (["layers=[2,-1]"], "each once"),
        (["format=csv"], "format is 'csv', expected npy, safetensors or huggingface"),
        (["precision=int8"], "precision is 'int8'"),
        (["model=nothing.nemo"], "nothing.nemo: no such file"),
        (["input=nothing.json"], "nothing.json: no such file"),
        (["num_workers=many"], "num_workers is 'many'"),
    ],
)
def test_wrong_options(run, tmp_path, corpus, arguments, message):
    status, said = run(f"input={corpus.speech}", f"output={tmp_path / 'out'}", *arguments)
    assert status == 1
    assert message in said
    assert not (tmp_path / "out").exists()


def test_one_layer(run, tmp_path, corpus):
    status, said = run(f"input={corpus.speech}", f"output={tmp_path / 'out'}", "layers=2")
    assert status == 0, said
    assert len(np.load(next((tmp_path / "out/features").iterdir()))) == 1


def test_output_that_is_no_folder(run, tmp_path, corpus):
    (tmp_path / "out").write_text("mine")
    status, said = run(f"input={corpus.speech}", f"output={tmp_path / 'out'}")
    assert status == 1
    assert "out: is a file; expected a folder" in said
    status, said = run(f"input={corpus.speech}", f"output={tmp_path / 'out/deeper'}")
    assert status == 1
    assert said.startswith(f"error: {tmp_path / 'out/deeper'}")
    assert "Not a directory" in said
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_of_something_else(run, tmp_path, corpus):
    (tmp_path / "thesis.tex").write_text("mine")
    status, said = run(f"input={corpus.speech}", f"output={tmp_path}", "overwrite=true")
    assert status == 1
    assert "holds other files" in said

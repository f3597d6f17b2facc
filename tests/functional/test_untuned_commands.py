"""Commands that recognize with a pretrained SpeechLM as it is: evaluation, transcription, pseudo labels."""

import json

import pytest
import torch

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus
from tests.functional.commands import run_example


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=4, n_text=8)


@pytest.fixture(scope="module")
def pretrained(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "pretrained.nemo"
    config = tiny_pretrain_config(corpus)
    config.train_ds, config.validation_ds = None, None
    torch.manual_seed(0)
    SpeechLMModel(config).save_to(str(path))
    return path


def test_evaluation_and_transcription(tmp_path, corpus, pretrained, capfd):
    arguments = [f"model={pretrained}", f"manifest={corpus.speech}", "device=cpu"]
    for decoding in ("null", "beam"):
        output = tmp_path / decoding
        options = [f"output={output}", f"decoding={decoding}", *(["beam_size=4"] if decoding == "beam" else [])]
        assert run_example("speechlm_evaluate.py", *arguments, *options) == 0
        assert len((output / "utterances.jsonl").read_text().splitlines()) == 4
    texts = [json.loads(line)["pred_text"] for line in (tmp_path / "null/utterances.jsonl").open()]
    audio = [str(corpus.speech.parent / r["audio_filepath"]) for _, r in read_manifest(corpus.speech)]
    written = [f"model={pretrained}", f"input=[{','.join(audio)}]", f"output={tmp_path / 'texts'}", "format=json"]
    assert run_example("transcribe.py", *written, "device=cpu", "silence=null") == 0
    for text, path in zip(texts, sorted((tmp_path / "texts").glob("*.json")), strict=True):
        segments = json.loads(path.read_text())["segments"]
        words = [word["word"] for segment in segments for word in segment["words"]]
        assert " ".join(words).split() == text.split()


def test_pseudo_labels(tmp_path, corpus, pretrained, capfd):
    arguments = [f"model={pretrained}", f"manifest={corpus.speech}", f"output={tmp_path / 'own.json'}", "device=cpu"]
    assert run_example("pseudo_label.py", *arguments) == 0
    told = capfd.readouterr().out
    assert "kept: 4 of 4 utterances" in told
    assert "of the 4 with a transcript" in told
    audio = corpus.speech.parent
    before = {str(audio / record["audio_filepath"]): record for _, record in read_manifest(corpus.speech)}
    for _, record in read_manifest(tmp_path / "own.json", ["text", "score", "reference"]):
        assert record["reference"] == before[record["audio_filepath"]]["text"]
        assert 0 < record["score"] <= 1
    assert run_example("pseudo_label.py", *arguments) == 1
    assert "own.json: exists already" in capfd.readouterr().err
    assert run_example("pseudo_label.py", *arguments, "overwrite=true", "min_score=1") == 1
    assert "none of 4 utterances is kept; the highest score is" in capfd.readouterr().err
    assert (tmp_path / "own.json").exists()


def test_speech_without_transcripts(tmp_path, corpus, pretrained):
    records = [record for _, record in read_manifest(corpus.speech)]
    audio = corpus.speech.parent
    bare = [{"audio_filepath": str(audio / r["audio_filepath"]), "duration": r["duration"]} for r in records]
    write_manifest(tmp_path / "bare.json", bare)
    arguments = [f"model={pretrained}", f"manifest={tmp_path / 'bare.json'}", "device=cpu", "keep=0.6"]
    assert run_example("pseudo_label.py", *arguments, f"output={tmp_path / 'own.json'}") == 0
    kept = [record for _, record in read_manifest(tmp_path / "own.json", ["text", "score"])]
    assert 0 < len(kept) < 4
    assert sum(r["duration"] for r in kept) <= 0.6 * sum(r["duration"] for r in bare)
    assert all(record["reference"] is None for record in kept)

"""Commands that recognize with a pretrained SpeechLM as it is: evaluation, transcription, pseudo labels."""

import json
import time

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


def test_weights_are_tuned_on_other_utterances(tmp_path, corpus, pretrained, capfd, monkeypatch):
    """The time that it takes is told by itself: it says nothing of how fast the test set is recognized."""
    from nemo_speechlm.evaluation import tuning

    records = [
        r | {"audio_filepath": str(corpus.speech.parent / r["audio_filepath"])}
        for _, r in read_manifest(corpus.speech)
    ]
    for name, part in (("valid", records[:2]), ("test", records[2:])):
        write_manifest(tmp_path / f"{name}.json", part)
    words = sorted({word for record in records for word in record["text"].split()})
    grams = "".join(f"-1.0\t{word}\t-0.3\n" for word in ["<s>", "</s>", "<unk>", *words])
    head = f"\\data\\\nngram 1={len(words) + 3}\nngram 2=1\n\n\\1-grams:\n{grams}\n"
    (tmp_path / "words.arpa").write_text(f"{head}\\2-grams:\n-0.5\t<s> {words[0]}\n\n\\end\\\n")
    tune = tuning.tune
    monkeypatch.setattr(tuning, "tune", lambda *args: time.sleep(6) or tune(*args))
    arguments = [
        f"model={pretrained}",
        "device=cpu",
        "decoding=lexicon",
        f"lm={tmp_path / 'words.arpa'}",
        "beam_size=4",
    ]
    arguments += ["lm_weights=[0,1]", "word_scores=[0]", f"tune_on={tmp_path / 'valid.json'}"]
    test = [f"manifest={tmp_path / 'test.json'}", f"output={tmp_path / 'out'}"]
    assert run_example("speechlm_evaluate.py", *arguments, *test) == 0, capfd.readouterr().err
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["tuned_on"].endswith("valid.json")
    assert summary["lm_weight"] in (0, 1)
    assert summary["tuning_seconds"] >= 6 > summary["seconds"] > 0
    assert summary["utterances"] == 2
    assert len((tmp_path / "out/tuning.csv").read_text().splitlines()) == 3
    both = [f"manifest={corpus.speech}", f"output={tmp_path / 'both'}"]
    assert run_example("speechlm_evaluate.py", *arguments, *both) == 1
    assert "valid.json" in capfd.readouterr().err


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

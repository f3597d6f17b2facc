"""A transducer as a user trains it: it saves, restores and decodes both ways."""

import json

import pytest
import torch
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from nemo_speechlm.data.manifests.sentences import read_sentences
from nemo_speechlm.data.text.sentencepiece_training import train_tokenizer
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMRNNTModel, SpeechLMRNNTModelBPE
from nemo_speechlm.modules import SpeechLMEncoder
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from tests.functional.commands import run_example


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=4)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start.nemo"
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    cfg = OmegaConf.create({**tiny_architecture(), "labels": tiny_labels(), "decoder": head})
    # Long frames, and so fewer of them: the beam search of a transducer goes from frame to frame in Python.
    cfg.encoder.front_end.layers = [[24, 40, 20], [24, 8, 8], [24, 8, 8]]
    SpeechLMCTCModel(cfg).save_to(str(path))
    return path


@pytest.fixture
def recipe(tmp_path, corpus, start):
    return [
        "--config-name=rnnt_small",
        f"output={tmp_path / 'rnnt.nemo'}",
        f"exp_manager.exp_dir={tmp_path / 'runs'}",
        f"model.init_from_pretrained={start}",
        f"model.train_ds.manifest_filepath={corpus.speech}",
        f"model.validation_ds.manifest_filepath={corpus.speech}",
        "model.train_ds.batch_duration=6",
        "model.train_ds.num_workers=0",
        "model.train_ds.num_buckets=2",
        "model.model_defaults.pred_hidden=16",
        "model.model_defaults.joint_hidden=16",
        "model.decoding.greedy.max_symbols=2",  # it has learned nothing, and would write ten in each frame
        "trainer.accelerator=cpu",
        "trainer.max_steps=3",
        "trainer.val_check_interval=3",
        "save=last",
    ]


def test_compiling(recipe, monkeypatch, caplog):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append(type(self).__name__))
    assert run_example("speechlm_finetune_rnnt.py", *recipe, "model.compile=true", "trainer.max_steps=1") == 0
    assert compiled == ["TransformerLayer"] * 2
    assert "torch.compile: 2 layers" in caplog.text


def test_characters(tmp_path, corpus, start, recipe):
    assert run_example("speechlm_finetune_rnnt.py", *recipe, "model.freeze_front_end=true") == 0
    model = ASRModel.restore_from(str(tmp_path / "rnnt.nemo"), map_location="cpu").eval()
    assert type(model) is SpeechLMRNNTModel
    assert isinstance(model.encoder, SpeechLMEncoder)
    assert list(model.joint.vocabulary) == tiny_labels()
    before = ASRModel.restore_from(str(start), map_location="cpu").state_dict()
    after = model.state_dict()
    encoder = [name for name in before if name.startswith("encoder.")]
    changed = {name for name in encoder if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("front_end" in name for name in changed)
    assert all((after[name] - before[name]).abs().max() < 0.02 for name in encoder)  # it began there

    arguments = [f"model={tmp_path / 'rnnt.nemo'}", f"manifest={corpus.speech}", "device=cpu"]
    for decoding in ("greedy", "beam"):
        output = tmp_path / decoding
        options = [f"output={output}", f"decoding={decoding}", *(["beam_size=2"] if decoding == "beam" else [])]
        assert run_example("speechlm_evaluate.py", *arguments, *options) == 0
        lines = [json.loads(line) for line in (output / "utterances.jsonl").read_text().splitlines()]
        assert len(lines) == 4
    paths = [str(corpus.speech.parent / line["audio_filepath"]) for line in lines]
    greedy = [json.loads(line)["pred_text"] for line in (tmp_path / "greedy/utterances.jsonl").open()]
    assert greedy == [
        " ".join(h.text.split()) for p in paths for h in model.transcribe([p], batch_size=1, verbose=False)
    ]


def test_tokens(tmp_path, corpus, recipe):
    train_tokenizer(read_sentences(corpus.text), tmp_path / "tokenizer", 20)
    options = [f"model.tokenizer.dir={tmp_path / 'tokenizer'}"]
    assert run_example("speechlm_finetune_rnnt.py", *recipe, *options) == 0
    model = ASRModel.restore_from(str(tmp_path / "rnnt.nemo"), map_location="cpu")
    assert type(model) is SpeechLMRNNTModelBPE
    assert model.joint.num_classes_with_blank == 21


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.labels=[a,b]"], "speech.json:1: 'k' (U+006B)"),
        (["model.freeze_encoder_steps=3"], "model.freeze_encoder_steps is not for transducers"),
        (["model.init_from_pretrained=nowhere.nemo"], "nowhere.nemo: no such file"),
        (["model.tokenizer.dir=nowhere"], "tokenizer.model: no such file"),
        (["model.tokenizer.dir=nowhere", "model.tokenizer.type=wpe"], "model.tokenizer.type is 'wpe', expected bpe"),
    ],
)
def test_bad_input(capsys, recipe, changes, message):
    assert run_example("speechlm_finetune_rnnt.py", *recipe, *changes) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error

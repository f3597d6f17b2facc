"""Fine-tuning and evaluation as a user runs them, on a corpus of tones."""

import json

import pytest
import torch
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from nemo_speechlm.models import SpeechLMCTCModel
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from tests.functional.commands import run_example, scalars


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that was not trained."""
    path = tmp_path_factory.mktemp("model") / "scratch.nemo"
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    cfg = {**tiny_architecture(), "labels": tiny_labels(), "decoder": head}
    SpeechLMCTCModel(OmegaConf.create(cfg)).save_to(str(path))
    return path


@pytest.fixture
def recipe(tmp_path, corpus, model):
    """Arguments of a fine-tuning of three steps that starts from ``model``."""
    return [
        "--config-name=ctc_small",
        f"output={tmp_path / 'ctc.nemo'}",
        f"exp_manager.exp_dir={tmp_path / 'runs'}",
        f"model.init_from_pretrained={model}",
        f"model.train_ds.manifest_filepath={corpus.speech}",
        f"model.validation_ds.manifest_filepath={corpus.speech}",
        "model.train_ds.batch_duration=6",
        "model.train_ds.num_workers=0",
        "model.train_ds.num_buckets=2",
        "trainer.accelerator=cpu",
        "trainer.max_steps=3",
        "trainer.val_check_interval=3",
        "trainer.log_every_n_steps=1",
    ]


def test_train_resume_restore_evaluate(tmp_path, capsys, corpus, model, recipe):
    freezing = ["model.freeze_front_end=true", "model.freeze_encoder_steps=2"]
    assert run_example("speechlm_finetune_ctc.py", *recipe, *freezing) == 0
    logged = scalars(tmp_path / "runs")
    assert {"train_loss", "val_loss", "val_wer", "val_cer", "learning_rate"} <= logged.keys()
    assert len(logged["train_loss"]) == 3

    before = ASRModel.restore_from(str(model), map_location="cpu").state_dict()
    after = ASRModel.restore_from(str(tmp_path / "ctc.nemo"), map_location="cpu")
    changed = {name.rsplit(".", 1)[0] for name, value in after.state_dict().items() if not value.equal(before[name])}
    assert any(name.startswith("decoder") for name in changed)
    assert any(name.startswith("encoder.speech_transformer") for name in changed)  # trained in the third step
    assert not any(name.startswith("encoder.front_end") for name in changed)

    # Refuses to overwrite; asked to, it goes on from where it was, if it is the same run.
    assert run_example("speechlm_finetune_ctc.py", *recipe, *freezing) == 1
    longer = ["overwrite=true", "save=last", "trainer.max_steps=5", "trainer.val_check_interval=5"]
    capsys.readouterr()
    assert run_example("speechlm_finetune_ctc.py", *recipe, *longer) == 1
    refused = capsys.readouterr().err
    assert "model.freeze_encoder_steps: 2 before, 0 now" in refused
    assert "model.freeze_front_end: true before, false now" in refused
    assert run_example("speechlm_finetune_ctc.py", *recipe, *freezing, *longer) == 0
    assert len(scalars(tmp_path / "runs")["train_loss"]) == 3 + 2

    restored = ASRModel.restore_from(str(tmp_path / "ctc.nemo"), map_location="cpu")
    records = [json.loads(line) for line in corpus.speech.read_text().splitlines()]
    files = [str(corpus.speech.parent / record["audio_filepath"]) for record in records]
    texts = [h.text for h in restored.transcribe(files, batch_size=1, verbose=False)]

    arguments = [f"model={tmp_path / 'ctc.nemo'}", f"manifest={corpus.speech}", f"output={tmp_path / 'report'}"]
    assert run_example("speechlm_evaluate.py", *arguments, "device=cpu", "batch_duration=5") == 0
    lines = [json.loads(line) for line in (tmp_path / "report" / "utterances.jsonl").read_text().splitlines()]
    assert [line["pred_text"] for line in lines] == [" ".join(text.split()) for text in texts]
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["words"]["length"] == sum(len(record["text"].split()) for record in records)
    assert summary["wer"] == sum(
        line["words"][kind] for line in lines for kind in ("substitutions", "insertions", "deletions")
    ) / sum(line["words"]["length"] for line in lines)
    assert run_example("speechlm_evaluate.py", *arguments) == 1


def test_whole_encoder_stays_frozen_for_the_first_steps(tmp_path, model, recipe):
    assert run_example("speechlm_finetune_ctc.py", *recipe, "model.freeze_encoder_steps=3", "save=last") == 0
    before = ASRModel.restore_from(str(model), map_location="cpu").state_dict()
    after = ASRModel.restore_from(str(tmp_path / "ctc.nemo"), map_location="cpu").state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.train_ds.manifest_filepath=nowhere.json"], "nowhere.json: no such file"),
        (["model.init_from_pretrained=nowhere.nemo"], "nowhere.nemo: no such file"),
        (["model.labels=[a,b]"], "speech.json:1: 'k' (U+006B)"),
        (["output=x.ckpt"], "must end in .nemo"),
        (["save=worst"], "save is 'worst', expected best, average or last"),
    ],
)
def test_bad_input_to_fine_tuning(capsys, recipe, changes, message):
    assert run_example("speechlm_finetune_ctc.py", *recipe, *changes) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_what_must_be_given_is_named(capsys):
    assert run_example("speechlm_finetune_ctc.py", "--config-name=ctc_small") == 1
    error = capsys.readouterr().err
    assert "output" in error
    assert "model.train_ds.manifest_filepath" in error


def test_evaluation_of_bad_lines(tmp_path, capsys, corpus, model):
    good = json.loads(corpus.speech.read_text().splitlines()[0])
    good["audio_filepath"] = str(corpus.speech.parent / good["audio_filepath"])
    silent = {**good, "text": "", "offset": 0.2, "duration": 0.002}
    records = [good, {**good, "text": None}, {**good, "audio_filepath": "no.wav"}, {**good, "offset": 50.0}, silent]
    manifest = tmp_path / "test.json"
    manifest.write_text("".join(json.dumps(record) + "\n" for record in records))
    arguments = [f"model={model}", f"manifest={manifest}", f"output={tmp_path / 'test.jsonl'}", "device=cpu"]
    assert run_example("speechlm_evaluate.py", *arguments) == 1
    assert "test.json:2: 'text' is None, expected a string" in capsys.readouterr().err
    assert run_example("speechlm_evaluate.py", *arguments, "skip_bad=true") == 0
    assert "3 lines left out" in capsys.readouterr().out
    skipped = [json.loads(line) for line in (tmp_path / "test.skipped.jsonl").read_text().splitlines()]
    assert [line["line"] for line in skipped] == [2, 3, 4]
    lines = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [good["text"], ""]
    assert run_example("speechlm_evaluate.py", "model=no.nemo", *arguments[1:], "overwrite=true", "skip_bad=true") == 1
    assert "no.nemo: no such file" in capsys.readouterr().err

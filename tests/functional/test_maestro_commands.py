"""MAESTRO's commands as a user runs them, on a corpus of tones: pretraining in stages, and what follows."""

import json

import pytest
from nemo.collections.asr.models import ASRModel

from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.maestro import TINY_MAESTRO_OPTIONS
from tests.functional.commands import run_example, scalars

SMALL = [
    *TINY_MAESTRO_OPTIONS, "model.train_ds.speech.batch_duration=8", "model.train_ds.text.batch_tokens=100",
    "model.train_ds.pairs.batch_duration=8", "model.train_ds.num_workers=0",
    "trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1",
]  # fmt: skip
STAGES = "model.stages=[{steps:2,tasks:[rnnt]},{steps:null,tasks:null}]"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=6, n_text=20)


@pytest.fixture(scope="module")
def data(corpus):
    manifests = {"speech": corpus.speech, "text": corpus.text, "pairs": corpus.speech}
    return [STAGES] + [
        f"model.{part}.{stream}.manifest_filepath={path}"
        for part in ("train_ds", "validation_ds")
        for stream, path in manifests.items()
    ]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, data):
    """Trained for the first stage and, by a second call, for two updates of the next one."""
    folder = tmp_path_factory.mktemp("pretrained")
    command = [f"output={folder / 'maestro.nemo'}", f"exp_manager.exp_dir={folder / 'runs'}", *data, *SMALL]
    assert run_example("maestro_pretrain.py", *command) == 0
    assert run_example("maestro_pretrain.py", *command, "overwrite=true", "trainer.max_steps=4") == 0
    return folder / "maestro.nemo"


def test_goes_on_between_stages(pretrained):
    logged = scalars(pretrained.parent / "runs")
    assert [value for _, value in logged["stage"]] == [0, 0, 1, 1]
    assert [value == value for _, value in logged["train_matching"]] == [True, True], "it belongs to the second stage"
    assert {"val_loss", "val_rnnt_phones", "val_mlm_graphemes", "val_matching_cosine"} <= logged.keys()


def test_recognizes_without_fine_tuning(tmp_path, corpus, pretrained):
    arguments = [f"model={pretrained}", f"manifest={corpus.speech}", "device=cpu", f"output={tmp_path / 'result'}"]
    assert run_example("speechlm_evaluate.py", *arguments) == 0
    lines = [json.loads(line) for line in (tmp_path / "result/utterances.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(isinstance(line["pred_text"], str) for line in lines)


def test_rnnt_begins_with_its_decoder(tmp_path, corpus, pretrained):
    command = [
        "--config-name=rnnt_small", f"output={tmp_path / 'tuned.nemo'}", f"exp_manager.exp_dir={tmp_path / 'runs'}",
        f"model.init_from_pretrained={pretrained}", f"model.train_ds.manifest_filepath={corpus.speech}",
        f"model.validation_ds.manifest_filepath={corpus.speech}", "model.train_ds.batch_duration=6",
        "model.train_ds.num_workers=0", "model.train_ds.num_buckets=2", "trainer.accelerator=cpu",
        "trainer.max_steps=1", "trainer.val_check_interval=1", "save=last", "model.reuse_decoder=true",
    ]  # fmt: skip
    assert run_example("speechlm_finetune_rnnt.py", *command) == 0
    tuned = ASRModel.restore_from(str(tmp_path / "tuned.nemo"), map_location="cpu")
    before = ASRModel.restore_from(str(pretrained), map_location="cpu").graphemes
    for part in ("decoder", "joint"):
        pairs = zip(getattr(tuned, part).parameters(), getattr(before, part).parameters(), strict=True)
        distances = [(ours - theirs).abs().max() for ours, theirs in pairs]
        assert 0 < max(distances) < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["language=ru", "model.phones.source=cmudict"], "model.phones.source is cmudict, and language.code 'ru'"),
        (["model.average.decay=2"], "model.average.decay is 2, expected a number from 0 to 1"),
        (["model.repetition.kind=often"], "model.repetition.kind is 'often', expected learned, fixed or random"),
        (["model.stages=[{steps:2,tasks:[tlm]}]"], "model.stages[0].tasks has 'tlm', which is no task"),
        (["model.train_ds.pairs=null"], "learns from pairs, and there is no model.train_ds.pairs.manifest_filepath"),
    ],
)
def test_bad_options(tmp_path, capsys, data, changes, message):
    command = [f"output={tmp_path / 'x.nemo'}", f"exp_manager.exp_dir={tmp_path / 'runs'}", *data, *SMALL, *changes]
    assert run_example("maestro_pretrain.py", *command) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error

"""speechlm_pretrain.py as a user runs it."""

import pytest
import torch

from nemo_speechlm.testing.corpora import tiny_corpus
from tests.functional.commands import run_example, scalars

SMALL = [
    "model.encoder.d_model=48", "model.encoder.speech_transformer.n_layers=1",
    "model.encoder.shared_transformer.n_layers=1", "model.train_ds.speech.batch_duration=6",
    "model.train_ds.text.batch_tokens=200", "model.train_ds.num_workers=0", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=16, n_text=60)


@pytest.fixture
def run(monkeypatch, capfd):
    """Runs the command in this process, in a folder; returns its exit status and its error message."""

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        capfd.readouterr()
        return run_example("speechlm_pretrain.py", *arguments), capfd.readouterr().err

    return run


def data(corpus):
    return [
        f"model.units={corpus.units}",
        *(f"model.{part}.speech.manifest_filepath={corpus.speech}" for part in ("train_ds", "validation_ds")),
        *(f"model.{part}.text.manifest_filepath={corpus.text}" for part in ("train_ds", "validation_ds")),
    ]


def steps_trained(folder):
    """In all runs together."""
    return len(scalars(folder / "runs/speechlm_p_small")["train_loss"])


def test_trains_goes_on_and_keeps_what_is_there(run, corpus, tmp_path):
    command = [*data(corpus), *SMALL, "output=out.nemo", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"]
    status, error = run(*command, "trainer.max_steps=2", cwd=tmp_path)
    assert status == 0, error[-2000:]
    assert (tmp_path / "out.nemo").exists()
    assert steps_trained(tmp_path) == 2
    status, error = run(*command, "trainer.max_steps=4", cwd=tmp_path)
    assert status == 1
    assert "out.nemo: exists already" in error
    status, error = run(*command, "trainer.max_steps=4", "overwrite=true", cwd=tmp_path)
    assert status == 0, error[-2000:]
    (last,) = tmp_path.glob("runs/**/*-last.ckpt")
    assert torch.load(last, weights_only=False)["global_step"] == 4
    assert steps_trained(tmp_path) == 4  # the second run trained the two that were missing, and no other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-name", "speechlm_p_huge"], "there is no config speechlm_p_huge.yaml in "),
        (["output=x.nemo"], "not given: model.train_ds.speech.manifest_filepath"),
        (["output=x.nemo", "DATA", "model.train_ds.text.manifest_filepath=gone.json"], "gone.json: no such file"),
        (["output=x.nemo", "DATA", "model.units=nowhere.json"], "nowhere.json: no such file"),
    ],
)  # fmt: skip
def test_mistakes(run, corpus, tmp_path, arguments, message):
    expanded = [a for argument in arguments for a in (data(corpus) if argument == "DATA" else [argument])]
    status, error = run(*expanded, cwd=tmp_path)
    assert status == 1
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("*.nemo"))

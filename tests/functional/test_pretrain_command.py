"""speechlm_pretrain.py as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nemo_speechlm.testing import tiny_corpus

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "model.encoder.d_model=48", "model.encoder.speech_transformer.n_layers=1",
    "model.encoder.shared_transformer.n_layers=1", "model.train_ds.speech.batch_duration=6",
    "model.train_ds.text.batch_tokens=200", "model.train_ds.num_workers=0", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=16, n_text=60)


def run(*arguments, cwd):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "speechlm_pretrain.py"), *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def data(corpus):
    return [
        f"model.units={corpus.units}",
        *(f"model.{part}.speech.manifest_filepath={corpus.speech}" for part in ("train_ds", "validation_ds")),
        *(f"model.{part}.text.manifest_filepath={corpus.text}" for part in ("train_ds", "validation_ds")),
    ]


def test_trains_goes_on_and_keeps_what_is_there(corpus, tmp_path):
    command = [*data(corpus), *SMALL, "output=out.nemo", "trainer.val_check_interval=2"]
    first = run(*command, "trainer.max_steps=2", cwd=tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    assert (tmp_path / "out.nemo").exists()
    assert list(tmp_path.glob("runs/speechlm_p_small/**/*tfevents*"))
    again = run(*command, "trainer.max_steps=4", cwd=tmp_path)
    assert again.returncode == 1
    assert "out.nemo: exists already" in again.stderr
    on = run(*command, "trainer.max_steps=4", "overwrite=true", cwd=tmp_path)
    assert on.returncode == 0, on.stderr[-2000:]
    (last,) = tmp_path.glob("runs/**/*-last.ckpt")
    assert torch.load(last, weights_only=False)["global_step"] == 4
    assert "Restored all states" in on.stderr + on.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-name", "speechlm_p_huge"], "speechlm_p_huge.yaml; there are: "),
        (["output=x.nemo"], "not given: model.train_ds.speech.manifest_filepath"),
        (["output=x.nemo", "DATA", "model.train_ds.text.manifest_filepath=gone.json"], "gone.json: no such file"),
        (["output=x.nemo", "DATA", "model.units=nowhere.json"], "nowhere.json: cannot read the unit inventory"),
    ],
)  # fmt: skip
def test_mistakes(corpus, tmp_path, arguments, message):
    expanded = [a for argument in arguments for a in (data(corpus) if argument == "DATA" else [argument])]
    result = run(*expanded, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert not list(tmp_path.glob("*.nemo"))

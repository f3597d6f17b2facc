"""Trainings that die between two validations: what the same command makes in the end is what it makes undisturbed."""

import io
import tarfile

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMModel
from nemo_speechlm.testing.configs import tiny_architecture, tiny_pretrain_config, tiny_tarred
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from nemo_speechlm.training.run import train

STEPS, EVERY = 8, 5


def pretraining(corpus, data, num_workers):
    model = tiny_pretrain_config(corpus)
    speech = {**data, "batch_duration": 8, "use_bucketing": True, "num_buckets": 2}
    return {**model, "train_ds": {**model["train_ds"], "speech": speech, "num_workers": num_workers}}


def fine_tuning(corpus, data, num_workers):
    valid = {"manifest_filepath": str(corpus.speech), "batch_duration": 8, "use_lhotse": True, "shuffle": False}
    train = {**valid, **data, "shuffle": True, "endless": True, "seed": 0, "num_workers": num_workers}
    return {
        **tiny_architecture(), "labels": tiny_labels(), "train_ds": train, "validation_ds": valid,
        "decoder": {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead", "dropout": 0.1},
        "optim": {"name": "adamw", "lr": 3e-3},
    }  # fmt: skip


MODELS = {"pretraining": (pretraining, SpeechLMModel), "fine-tuning": (fine_tuning, SpeechLMCTCModel)}


def recipe(folder, model):
    return OmegaConf.create(
        {
            "output": str(folder / "out.nemo"), "overwrite": False, "save": "last", "seed": 0, "name": "run",
            "save_every_minutes": 1e-9, "model": model,
            "trainer": {
                "accelerator": "cpu", "devices": 1, "max_steps": STEPS, "max_epochs": -1, "accumulate_grad_batches": 1,
                "val_check_interval": EVERY, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0,
                "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
                "enable_model_summary": False, "use_distributed_sampler": False,
            },
            "exp_manager": {
                "exp_dir": str(folder / "runs"), "name": "run", "use_datetime_version": False,
                "resume_if_exists": True, "resume_ignore_no_checkpoint": True, "create_tensorboard_logger": False,
                "checkpoint_callback_params": {
                    "monitor": "val_loss", "mode": "min", "save_top_k": 0, "save_last": True,
                    "always_save_nemo": False, "save_nemo_on_train_end": False,
                },
            },
        }
    )  # fmt: skip


class Death(BaseException):
    """Nobody catches it."""


def dying(model, at):
    """A class whose training dies at a step, when all before it has been saved."""

    class Dying(model):
        def training_step(self, batch, *arguments):
            if self.trainer.global_step == at:
                raise Death
            return super().training_step(batch, *arguments)

    return Dying


def weights(folder):
    with tarfile.open(folder / "out.nemo") as archive:
        (name,) = [name for name in archive.getnames() if name.endswith("model_weights.ckpt")]
        return torch.load(io.BytesIO(archive.extractfile(name).read()), weights_only=True)


@pytest.mark.parametrize(("kind", "source", "num_workers"), [
    ("pretraining", "manifest", 2), ("fine-tuning", "tarred", 0),
])  # fmt: skip
def test_the_weights_are_those_of_an_undisturbed_run(tmp_path, kind, source, num_workers):
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=16, n_text=30)
    data = {"manifest_filepath": str(corpus.speech)}
    if source == "tarred":
        data = tiny_tarred(corpus.speech, tmp_path / "tarred")
    configure, model = MODELS[kind]
    whole, troubled = tmp_path / "whole", tmp_path / "troubled"
    train(recipe(whole, configure(corpus, data, num_workers)), lambda cfg, trainer: model(cfg=cfg, trainer=trainer))
    cfg = recipe(troubled, configure(corpus, data, num_workers))
    for step in (3, 6):  # behind a save by time alone, and behind a validation and one
        with pytest.raises(Death):
            train(cfg, lambda cfg, trainer, step=step: dying(model, step)(cfg=cfg, trainer=trainer))
    train(cfg, lambda cfg, trainer: model(cfg=cfg, trainer=trainer))
    expected, found = weights(whole), weights(troubled)
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []

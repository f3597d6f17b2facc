"""Trainings that die between two validations: what the same command makes in the end is what it makes undisturbed."""

import pytest
import torch

from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMModel
from nemo_speechlm.models.common.pretrained import read_nemo
from nemo_speechlm.testing.configs import tiny_architecture, tiny_pretrain_config, tiny_recipe, tiny_tarred
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
    cfg = tiny_recipe(folder, model, STEPS, val_check_interval=EVERY)
    cfg.exp_manager.checkpoint_callback_params.save_top_k = 0
    cfg.save_every_minutes = 1e-9
    return cfg


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
    return read_nemo(folder / "out.nemo").weights


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


def test_an_update_that_was_not_finished_begins_anew(tmp_path):
    """A validation after the third batch of updates of two saves a place from which both batches come again."""
    corpus = tiny_corpus(tmp_path / "corpus", n_speech=16, n_text=30)
    config = pretraining(corpus, {"manifest_filepath": str(corpus.speech)}, 0)
    read = {}

    def run(name, at=None):
        class Reading(SpeechLMModel):
            def training_step(self, batch, *arguments):
                if at == len(read[name]):
                    raise Death
                read[name].append(batch.number)
                return super().training_step(batch, *arguments)

        read.setdefault(name, [])
        cfg = tiny_recipe(tmp_path / name, config, 4, val_check_interval=3, accumulate_grad_batches=2)
        train(cfg, lambda cfg, trainer: Reading(cfg=cfg, trainer=trainer))

    run("whole")
    with pytest.raises(Death):
        run("troubled", at=3)
    run("troubled")
    assert read["troubled"] == [0, 1, 2, 2, 3, 4, 5, 6, 7]
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "troubled")
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []

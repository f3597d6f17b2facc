"""Fine-tuning on audio in tar files: each kind of model trains, validates, goes on as if it had not been stopped."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch import Callback
from omegaconf import OmegaConf, open_dict

from nemo_speechlm.cli import CONF
from nemo_speechlm.errors import InputError
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMEncDecModel
from nemo_speechlm.models.common.pretraining import PlaceInData
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.testing.configs import tiny_architecture, tiny_tarred
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.training.step_guards import BatchSeeds

KINDS = {"ctc_small": SpeechLMCTCModel, "st_small": SpeechLMEncDecModel, "rnnt_small": build_transducer}


@pytest.fixture(scope="module")
def tarred(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return tiny_tarred(tiny_corpus(folder, n_speech=12).speech, folder / "tarred", 3)


def model_config(recipe, tarred):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        cfg = compose(recipe, ["output=none.nemo"]).model
    with open_dict(cfg):
        for key, value in tiny_architecture().items():
            cfg[key] = value
        cfg.pop("encoder_overrides")
        cfg.spec_augment = None  # the tiny front end reads waveforms
        cfg.labels = tiny_labels()
        data = {**tarred, "batch_duration": None, "batch_size": 2, "num_workers": 0}
        for part in ("train_ds", "validation_ds"):
            cfg[part] = OmegaConf.merge(cfg[part], data)
        cfg.train_ds.update(use_bucketing=False, shuffle_buffer_size=4)
        if recipe == "rnnt_small":
            cfg.model_defaults.update(pred_hidden=8, joint_hidden=8)
            cfg.decoding.greedy.max_symbols = 2
            # Long frames, and so fewer of them: the beam search of a transducer goes from frame to frame in Python.
            cfg.encoder.front_end.layers = [[24, 40, 40], [24, 8, 8], [24, 8, 8]]
        elif recipe == "st_small":
            cfg.decoder.update(n_layers=1, d_model=32, d_ff=32)
            cfg.decoding.update(max_length=8, max_length_per_frame=0)  # an untrained decoder goes on to the end
    return cfg


STEPS = 6


class Seen(Callback):
    """Keeps the targets of the batches that were trained on; stops after some of them."""

    def __init__(self, stop):
        self.batches = []
        self.stop = stop

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.stop

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(tuple(map(tuple, batch[2].tolist())))


def fit(recipe, tarred, stop=STEPS, checkpoint=None):
    torch.manual_seed(0)
    seen = Seen(stop)
    callbacks = [seen, BatchSeeds(0), PlaceInData()]
    trainer = tiny_trainer(STEPS, max_epochs=-1, val_check_interval=2, limit_val_batches=2, callbacks=callbacks)
    model = KINDS[recipe](model_config(recipe, tarred), trainer)
    trainer.fit(model, ckpt_path=checkpoint)
    assert trainer.global_step == stop
    assert float(trainer.callback_metrics["val_loss"]) > 0
    return trainer, model, seen.batches


@pytest.mark.parametrize("recipe", KINDS)
def test_trains_and_goes_on(recipe, tarred, tmp_path):
    trainer, _, first = fit(recipe, tarred, 4)
    trainer.save_checkpoint(tmp_path / "run.ckpt", weights_only=False)
    _, resumed, rest = fit(recipe, tarred, checkpoint=tmp_path / "run.ckpt")
    _, undisturbed, whole = fit(recipe, tarred)
    assert len(set(whole)) == STEPS
    assert len(first) == 4
    assert first + rest == whole
    found = resumed.state_dict()
    for name, weight in undisturbed.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("recipe", ["ctc_small", "rnnt_small"])
def test_unknown_characters_of_shards_are_told(recipe, tarred):
    cfg = model_config(recipe, tarred)
    cfg.labels = ["a", " "]
    with pytest.raises(InputError, match=r"manifest_0\.json:1: 'k' \(U\+006B\)"):
        KINDS[recipe](cfg)

"""What models say that they log is what they log, so a monitor can be refused before training."""

import copy

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.models import (
    FrameClassifierModel,
    MAESTROModel,
    SLAMModel,
    SpeechLMCTCModel,
    SpeechLMEncDecModel,
    SpeechLMModel,
    TextToUnitModel,
)
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.testing.configs import (
    tiny_architecture,
    tiny_frame_classifier_config,
    tiny_pretrain_config,
    tiny_text_to_unit_config,
)
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels, tiny_paired_corpus
from nemo_speechlm.testing.maestro import tiny_maestro_config
from nemo_speechlm.testing.slam import tiny_slam_config
from nemo_speechlm.testing.trainer import tiny_trainer
from tests.models.maestro.test_text_beside_speech import TRANSDUCER
from tests.models.recognition.test_encdec import config as encdec_config
from tests.models.recognition.test_phone_ctc import config as phone_config

CONDITIONAL = {"bad_examples"}
"""Logged only where bad examples are left out, so no figure to go by."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=8, n_text=16)


def recognition(corpus):
    data = {"manifest_filepath": str(corpus.speech), "use_lhotse": True, "batch_duration": 20, "num_workers": 0}
    train = {**data, "shuffle": True, "endless": True, "seed": 3}
    return {"train_ds": train, "validation_ds": {**data, "shuffle": False}}


def text_to_unit(corpus):
    folder = corpus.speech.parent / "pairs"
    pairs = tiny_paired_corpus(folder)
    data = {"manifest_filepath": str(pairs.hidden_manifest), "phones_manifest_filepath": str(pairs.phone_manifest)}
    both = {**data, "batch_frames": 500}
    return TextToUnitModel(tiny_text_to_unit_config(folder, train_ds=both, validation_ds=both), tiny_trainer(3))


def ctc(corpus):
    config = {**tiny_architecture(), "decoder": {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}}
    config |= {"labels": tiny_labels(), "optim": {"name": "adamw", "lr": 1e-3}, **recognition(corpus)}
    return SpeechLMCTCModel(OmegaConf.create(config), tiny_trainer(3, log_every_n_steps=1))


def transducer(corpus):
    changes = {**tiny_architecture(), "labels": tiny_labels(), **recognition(corpus), "reuse_decoder": False}
    changes |= {"init_from_pretrained": None, "optim": {"name": "adamw", "lr": 1e-3}}
    config = OmegaConf.create({**copy.deepcopy(TRANSDUCER), **changes})
    return build_transducer(config, tiny_trainer(3, log_every_n_steps=1))


MADE = {
    "speechlm": lambda corpus: SpeechLMModel(tiny_pretrain_config(corpus), tiny_trainer(3)),
    "slam": lambda corpus: SLAMModel(tiny_slam_config(corpus), tiny_trainer(3)),
    "maestro": lambda corpus: MAESTROModel(tiny_maestro_config(corpus), tiny_trainer(3)),
    "classifier": lambda corpus: FrameClassifierModel(tiny_frame_classifier_config(corpus), tiny_trainer(3)),
    "text-to-unit": text_to_unit,
    "ctc": ctc,
    "phone-ctc": lambda corpus: SpeechLMCTCModel(phone_config(corpus), tiny_trainer(3, log_every_n_steps=1)),
    "encdec": lambda corpus: SpeechLMEncDecModel(
        encdec_config(ctc_weight=0.3, **recognition(corpus)), tiny_trainer(3)
    ),
    "transducer": transducer,
}


@pytest.mark.parametrize("kind", MADE)
def test_all_that_is_said_to_be_logged_is(corpus, kind):
    torch.manual_seed(0)
    model = MADE[kind](corpus)
    model.trainer.fit(model)
    logged = set(model.trainer.callback_metrics)
    said = model.training_metrics()
    assert len(set(said)) == len(said)
    assert set(said) == {name for name in logged if not name.startswith("val_")} - CONDITIONAL
    if model._validation_dl != []:
        assert set(model.validation_metrics()) <= logged

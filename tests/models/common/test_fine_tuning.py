"""What models that are fine-tuned do with their configs."""

import pytest
import torch
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMEncDecModel
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_labels
from nemo_speechlm.testing.trainer import tiny_trainer

HEAD = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}


def config(**changes):
    return OmegaConf.create({"labels": tiny_labels(), "decoder": HEAD, **changes})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A file to start from."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "start.nemo"
    SpeechLMCTCModel(config(**tiny_architecture())).save_to(str(path))
    return str(path)


@pytest.mark.parametrize("make", [SpeechLMCTCModel, SpeechLMEncDecModel, build_transducer])
def test_no_training_begins_with_a_random_front_end_that_is_frozen(start, make):
    trainer = tiny_trainer(1)
    with pytest.raises(SpeechLMError, match=r"freeze_front_end is true, and there is no model.init_from_pretrained: "):
        make(config(**tiny_architecture(), freeze_front_end=True), trainer)
    only_architecture = {"init_from_pretrained": start, "pretrained_weights": False}
    with pytest.raises(SpeechLMError, match=r"and model.pretrained_weights is false: .* Set it to false"):
        make(config(**only_architecture, freeze_front_end=True), trainer)


def test_other_models_have_a_frozen_front_end(start, tmp_path):
    begun = SpeechLMCTCModel(config(init_from_pretrained=start, freeze_front_end=True), tiny_trainer(1))
    SpeechLMCTCModel(config(**tiny_architecture(), freeze_front_end=True)).save_to(str(tmp_path / "ctc.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "ctc.nemo"), map_location="cpu", trainer=tiny_trainer(1))
    trainer = tiny_trainer(1)
    trainer.ckpt_path = "last.ckpt"
    resumed = SpeechLMCTCModel(config(**tiny_architecture(), freeze_front_end=True), trainer)
    for model in (begun, restored, resumed):
        assert not any(parameter.requires_grad for parameter in model.encoder.front_end.parameters())

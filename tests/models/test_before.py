"""Files saved before the house was laid out anew restore, through our classes and through NeMo's."""

from pathlib import Path

import pytest
import torch
from nemo.collections.asr.models import ASRModel
from nemo.core.classes import ModelPT

from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMModel, TextToUnitModel

BEFORE = Path(__file__).parents[1] / "assets" / "before"

WEIGHT = {"pretrained": 1227.8394764183322, "ctc": 1645.6167083978653}
"""Sum of the outputs' absolute values, as the version that saved the files computed it."""

CLASSES = {"pretrained": SpeechLMModel, "ctc": SpeechLMCTCModel, "text_to_unit": TextToUnitModel}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("through_nemo", [False, True])
def test_it_restores(name, through_nemo):
    base = ModelPT if through_nemo else CLASSES[name]
    assert type(base.restore_from(str(BEFORE / f"{name}.nemo"), map_location="cpu")) is CLASSES[name]


@pytest.mark.parametrize("name", WEIGHT)
def test_it_computes_what_it_did(name):
    model = CLASSES[name].restore_from(str(BEFORE / f"{name}.nemo"), map_location="cpu").eval()
    signal = torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model(input_signal=signal, input_signal_length=torch.tensor([8000, 6400]))[0]
    assert output.double().abs().sum().item() == pytest.approx(WEIGHT[name], rel=1e-5)


def test_saved_again_it_names_its_class_by_the_public_path(tmp_path):
    model = SpeechLMCTCModel.restore_from(str(BEFORE / "ctc.nemo"), map_location="cpu")
    model.save_to(str(tmp_path / "again.nemo"))
    again = ASRModel.restore_from(str(tmp_path / "again.nemo"), map_location="cpu")
    assert again.cfg.target == "nemo_speechlm.models.SpeechLMCTCModel"

"""Transducers of waveforms; tests/models/maestro/test_text_beside_speech.py has those of mel features."""

import copy
import json

import pytest
import torch
from nemo.collections.asr.models import ASRModel, EncDecRNNTModel
from omegaconf import OmegaConf

from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus
from tests.models.maestro.test_text_beside_speech import TRANSDUCER


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=2, n_text=4)


def test_nemos_own_model_tells_times_of_waveforms(corpus, tmp_path):
    torch.manual_seed(0)
    SpeechLMModel(tiny_pretrain_config(corpus, train_ds=None, validation_ds=None)).save_to(
        str(tmp_path / "start.nemo")
    )
    changes = {"labels": None, "init_from_pretrained": str(tmp_path / "start.nemo"), "reuse_decoder": False}
    model = build_transducer(OmegaConf.create({**copy.deepcopy(TRANSDUCER), **changes})).eval()
    assert type(model) is EncDecRNNTModel
    with torch.no_grad():  # something is said in each frame
        model.joint.joint_net[-1].bias[-1] = -20.0
    model.save_to(str(tmp_path / "rnnt.nemo"))
    audio = corpus.speech.parent / json.loads(corpus.speech.read_text().splitlines()[0])["audio_filepath"]
    for each in (model, ASRModel.restore_from(str(tmp_path / "rnnt.nemo"), map_location="cpu")):
        (found,) = each.transcribe([str(audio)], timestamps=True, verbose=False)
        assert found.timestamp["char"]
        for character in found.timestamp["char"]:
            assert character["start"] == pytest.approx(character["start_offset"] * 0.02, abs=0.005)  # NeMo rounds

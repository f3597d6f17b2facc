"""Transducers of waveforms; tests/models/maestro/test_text_beside_speech.py has those of mel features."""

import copy
import json

import pytest
import torch
from nemo.collections.asr.models import ASRModel, EncDecRNNTModel
from omegaconf import OmegaConf, open_dict

from nemo_speechlm.models import SpeechLMModel, SpeechLMRNNTModel
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.trainer import tiny_trainer
from tests.models.maestro.test_text_beside_speech import TRANSDUCER


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=2, n_text=4)


@pytest.fixture(scope="module")
def start(corpus, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "start.nemo"
    SpeechLMModel(tiny_pretrain_config(corpus, train_ds=None, validation_ds=None)).save_to(str(path))
    return path


def build(start, trainer=None, **changes):
    changes = {"labels": None, "init_from_pretrained": str(start), "reuse_decoder": False, **changes}
    return build_transducer(OmegaConf.create({**copy.deepcopy(TRANSDUCER), **changes}), trainer).eval()


def audio(corpus):
    return str(corpus.speech.parent / json.loads(corpus.speech.read_text().splitlines()[0])["audio_filepath"])


def test_it_tells_times_of_waveforms(corpus, start, tmp_path):
    model = build(start)
    assert type(model) is SpeechLMRNNTModel
    assert model.text_branch is None
    with torch.no_grad():  # something is said in each frame
        model.joint.joint_net[-1].bias[-1] = -20.0
    model.save_to(str(tmp_path / "rnnt.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "rnnt.nemo"), map_location="cpu")
    assert type(restored) is SpeechLMRNNTModel
    for each in (model, restored):
        (found,) = each.transcribe([audio(corpus)], timestamps=True, verbose=False)
        assert found.timestamp["char"]
        for character in found.timestamp["char"]:
            assert character["start"] == pytest.approx(character["start_offset"] * 0.02, abs=0.005)  # NeMo rounds


def test_transcribing_leaves_the_mode_and_the_spaces(corpus, start, tmp_path):
    model = build(start)
    model.save_to(str(tmp_path / "rnnt.nemo"))
    for each in (model, ASRModel.restore_from(str(tmp_path / "rnnt.nemo"), map_location="cpu").eval()):
        each.transcribe([audio(corpus)], verbose=False)
        assert not any(module.training for module in each.modules())
        assert each.decoding.supported_punctuation == set()
        each.change_vocabulary(["a", " ", "'"])
        assert each.decoding.supported_punctuation == set()


def test_the_log_has_the_mean_and_not_the_sum(corpus, start, monkeypatch):
    data = {"manifest_filepath": str(corpus.speech), "use_lhotse": True, "batch_duration": 9, "shuffle": True}
    losses = []
    step = SpeechLMRNNTModel.training_step

    def watched(self, *batch):
        losses.append(step(self, *batch)["loss"])
        return {"loss": losses[-1]}

    monkeypatch.setattr(SpeechLMRNNTModel, "training_step", watched)
    trainer = tiny_trainer(1)
    train_ds = {**data, "endless": True, "num_workers": 0, "seed": 0}
    model = build(start, trainer, train_ds=train_ds, optim={"name": "adamw", "lr": 1e-3})
    trainer.fit(model.train())
    assert float(trainer.callback_metrics["train_loss"]) == pytest.approx(float(losses[0].detach()))


def test_files_of_earlier_versions_are_of_nemos_class(corpus, start, tmp_path):
    """They are restored as such, and recognizers start from them."""
    model = build(start)
    cfg = copy.deepcopy(model.cfg)
    with open_dict(cfg):
        del cfg.target
    stock = EncDecRNNTModel(cfg)
    stock.load_state_dict(model.state_dict())
    stock.save_to(str(tmp_path / "old.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "old.nemo"), map_location="cpu").eval()
    assert type(restored) is EncDecRNNTModel
    again = build(tmp_path / "old.nemo", reuse_decoder=True)
    assert type(again) is SpeechLMRNNTModel
    texts = [each.transcribe([audio(corpus)], verbose=False)[0].text for each in (model, restored, again)]
    assert texts[0]
    assert texts == texts[:1] * 3
    weights = again.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())

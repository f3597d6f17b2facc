"""Tiny models that were not trained, and speech, for tests of the page."""

from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.models import FrameClassifierModel, SpeechLMCTCModel, SpeechLMEncDecModel, SpeechLMModel
from nemo_speechlm.serving.listener import Listener
from nemo_speechlm.serving.run import check_options
from nemo_speechlm.testing.configs import tiny_architecture, tiny_frame_classifier_config, tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=4, n_text=4)


@pytest.fixture(scope="session")
def recording(corpus):
    _, record = next(read_manifest(corpus.speech))
    return corpus.speech.parent / record["audio_filepath"]


@pytest.fixture(scope="session")
def models(corpus, tmp_path_factory):
    """A folder with ctc.nemo, pretrained.nemo, frames.nemo, and st.nemo, which translates."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    ctc = OmegaConf.create({**tiny_architecture(), "labels": tiny_labels(), "decoder": head})
    SpeechLMCTCModel(ctc).save_to(str(folder / "ctc.nemo"))
    decoder = {
        "_target_": "nemo_speechlm.modules.RelativeDecoder",
        "n_layers": 1,
        "d_model": 32,
        "n_heads": 2,
        "d_ff": 64,
    }
    st = OmegaConf.create({**tiny_architecture(), "labels": tiny_labels(), "decoder": decoder, "task": "translation"})
    SpeechLMEncDecModel(st).save_to(str(folder / "st.nemo"))
    none = {"train_ds": None, "validation_ds": None}
    SpeechLMModel(tiny_pretrain_config(corpus, **none)).save_to(str(folder / "pretrained.nemo"))
    FrameClassifierModel(tiny_frame_classifier_config(corpus, **none)).save_to(str(folder / "frames.nemo"))
    return folder


def config(*options):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose(config_name="serve", overrides=["device=cpu", *map(str, options)])


@cache
def make_listener(*options):
    """The listener of ``conf/serve.yaml`` with options; tests share those that are alike."""
    cfg = config(*options)
    return Listener.of(cfg, check_options(cfg))

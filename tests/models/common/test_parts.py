"""Each model says which of its parts others take over; of NeMo's own models, which say nothing, only the encoder."""

import logging
from dataclasses import replace

import pytest
import torch
from nemo.utils import logging as nemo_logging
from omegaconf import OmegaConf

from nemo_speechlm import models
from nemo_speechlm.errors import InputError
from nemo_speechlm.models import SLAMModel, SpeechLMCTCModel, SpeechLMEncDecModel, SpeechLMEncoderModel, SpeechLMModel
from nemo_speechlm.models.common.parts import parts_of
from nemo_speechlm.models.common.pretrained import load_ctc_head, load_encoder, read_pretrained
from nemo_speechlm.modules import SpeechLMCTCHead
from nemo_speechlm.testing.configs import tiny_architecture, tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from nemo_speechlm.testing.slam import tiny_slam_config

HEAD = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}


def ctc(**changes):
    return SpeechLMCTCModel(OmegaConf.create({"labels": tiny_labels(), "decoder": HEAD, **changes}))


def encdec(**changes):
    decoder = {"_target_": "nemo_speechlm.modules.RelativeDecoder", "n_layers": 1, "d_model": 16, "n_heads": 2}
    decoder |= {"d_ff": 16, "encoder_dim": 16}
    config = {"labels": tiny_labels(), "decoder": decoder, "ctc_weight": 0.5, "ctc_branch": HEAD, **changes}
    return SpeechLMEncDecModel(OmegaConf.create(config))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The file of a CTC model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ctc") / "ctc.nemo"
    ctc(**tiny_architecture()).save_to(str(path))
    return read_pretrained(path)


@pytest.fixture
def said():
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    nemo_logging._logger.addHandler(handler)
    nemo_logging.setLevel(logging.INFO)  # whatever other tests left
    yield lines
    nemo_logging._logger.removeHandler(handler)


def test_every_part_that_holds_weights_is_declared(tmp_path):
    corpus = tiny_corpus(tmp_path, n_speech=1, n_text=1)
    for model in (
        SpeechLMModel(tiny_pretrain_config(corpus)),
        ctc(**tiny_architecture()),
        encdec(**tiny_architecture()),
        SpeechLMEncoderModel(OmegaConf.create(tiny_architecture())),
        SLAMModel(tiny_slam_config(corpus)),
    ):
        assert {key.split(".")[0] for key in model.state_dict()} <= model.parts.names
        assert parts_of(model.cfg) is model.parts


@pytest.mark.parametrize("target", ["ctc.SpeechLMCTCModel", "recognition.ctc.SpeechLMCTCModel", "SpeechLMCTCModelBPE"])
def test_asked_by_any_name_that_a_file_may_have(target):
    assert parts_of(OmegaConf.create({"target": f"{models.__name__}.{target}"})) == SpeechLMCTCModel.parts


@pytest.mark.parametrize(
    "target",
    [
        None,
        "",
        "Model",
        "nemo.collections.asr.models.EncDecRNNTModel",
        "nemo_speechlm.models.NoSuchModel",
        "nemo_speechlm.no_such_room.Model",
        "nemo_speechlm.models.FrameClassifierModel",  # has another thing of that name once it is made
    ],
)
def test_others_do_not_say(target):
    assert parts_of(OmegaConf.create({"target": target})) is None


def test_a_class_of_elsewhere_is_asked_only_if_it_is_there_already(tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text("raise AssertionError('the file named it, and its code was run')")
    monkeypatch.syspath_prepend(tmp_path)
    assert parts_of(OmegaConf.create({"target": "never_imported.Model"})) is None
    monkeypatch.setitem(globals(), "Derived", type("Derived", (SpeechLMCTCModel,), {}))
    assert parts_of(OmegaConf.create({"target": f"{__name__}.Derived"})) is SpeechLMCTCModel.parts


def test_a_stock_transducer_leaves_its_decoder_and_joint_behind(source, said):
    weights = {key: value for key, value in source.weights.items() if not key.startswith("decoder.")}
    weights |= {"decoder.prediction.embed.weight": torch.ones(3, 4), "joint.pred.weight": torch.ones(4, 4)}
    cfg = OmegaConf.merge(source.cfg, {"target": "nemo.collections.asr.models.rnnt_models.EncDecRNNTModel"})
    stock = replace(source, cfg=cfg, weights=weights)
    model = ctc(**tiny_architecture())
    load_encoder(model, stock)
    for key, value in stock.part("encoder").items():
        assert torch.equal(model.encoder.state_dict()[key], value), key
    assert "Not taken over: decoder, joint." in said[-1]
    with pytest.raises(InputError, match="holds no CTC head"):
        load_ctc_head(model.decoder, tiny_labels(), stock)


def test_a_part_that_its_model_does_not_declare_is_an_error(source):
    strange = replace(source, weights={**source.weights, "joint.pred.weight": torch.ones(4, 4)})
    with pytest.raises(InputError, match=r"ctc\.nemo: holds weights of parts unknown here: joint"):
        load_encoder(ctc(**tiny_architecture()), strange)


def test_the_head_beside_an_attention_decoder_is_one_to_start_from(tmp_path):
    torch.manual_seed(1)
    model = encdec(**tiny_architecture())
    model.save_to(str(tmp_path / "encdec.nemo"))
    labels = ["new", *tiny_labels()[::-1]]
    head = SpeechLMCTCHead(feat_in=32, vocabulary=labels)
    assert load_ctc_head(head, labels, read_pretrained(tmp_path / "encdec.nemo")) == ["new"]
    theirs = model.ctc_branch.linear.weight
    for row, label in enumerate(labels[1:], start=1):
        assert torch.equal(head.linear.weight[row], theirs[model.vocabulary.symbols[1:].index(label)]), label
    assert torch.equal(head.linear.weight[-1], theirs[-1])
    assert torch.equal(head.conv.weight, model.ctc_branch.conv.weight)


def test_a_head_whose_rows_nobody_can_name_is_refused(source):
    fewer = OmegaConf.merge(source.cfg, {"labels": tiny_labels()[:-2]})
    with pytest.raises(InputError, match="holds no CTC head"):
        load_ctc_head(SpeechLMCTCHead(32, vocabulary=tiny_labels()), tiny_labels(), replace(source, cfg=fewer))


def test_a_model_of_ours_without_a_speechlm_encoder_is_refused(source, tmp_path):
    model = ctc(**tiny_architecture())
    model.cfg.target = f"{models.__name__}.FrameClassifierModel"
    model.save_to(str(tmp_path / "classifier.nemo"))
    with pytest.raises(InputError, match="holds a FrameClassifierModel, which has no SpeechLM encoder"):
        read_pretrained(tmp_path / "classifier.nemo")

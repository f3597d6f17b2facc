"""Pretraining that starts from a converted HuBERT, or from another of our models: which weights end up where."""

import logging

import pytest
import torch
from nemo.utils import logging as nemo_logging

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.models import SpeechLMEncoderModel, SpeechLMModel
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_hidden_inventory
from tests.interop.reading.test_huggingface import MODELS, randomize, save

AUDIO, LENGTH = torch.randn(1, 6000, generator=torch.Generator().manual_seed(0)), torch.tensor([6000])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=2, n_text=2)


@pytest.fixture(scope="module", params=["hubert base", "hubert large"])
def teacher(request, tmp_path_factory):
    """A HuBERT of five layers, two of them in its speech transformer, and its path."""
    folder = tmp_path_factory.mktemp("teacher")
    convert(save(randomize(MODELS[request.param]()), folder / "x"), folder / "y.nemo", Options(speech_layers=2))
    return SpeechLMEncoderModel.restore_from(str(folder / "y.nemo"), map_location="cpu").eval(), folder / "y.nemo"


def layers_of(model):
    return model.extract_features(AUDIO, LENGTH)[0]


@pytest.mark.parametrize("speech_layers", [None, 1, 4])
def test_layers_give_what_the_teachers_gave(corpus, teacher, speech_layers):
    theirs, path = teacher
    config = tiny_pretrain_config(corpus, init_from_pretrained=str(path), speech_layers=speech_layers)
    model = SpeechLMModel(config).eval()
    speech = speech_layers or 2
    assert len(model.encoder.speech_transformer.layers) == speech
    assert len(model.encoder.shared_transformer.layers) == 5 - speech
    pre_norm = model.encoder.speech_transformer.pre_norm
    ours, expected = layers_of(model), layers_of(theirs)
    exact = speech - pre_norm  # SpeechLM has a norm behind the last layer of a pre-norm speech transformer
    assert exact >= 0
    for mine, other in zip(ours[:exact], expected[:exact], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    if pre_norm and speech != 2:  # the teacher's second is one of ours within a transformer
        normed = model.encoder.speech_transformer.output_norm(expected[speech - 1])
        torch.testing.assert_close(ours[speech - 1], normed, rtol=1e-4, atol=1e-4)
    # Each layer of the shared transformer is the teacher's too: fed with what its is fed with, it gives the same.
    seen = expected[speech - 1]
    relative = model.encoder.shared_transformer.relative_positions
    out = model.encoder.shared_transformer.layers[0](seen, relative.rows(seen.shape[1]), None)
    if speech < 4:
        torch.testing.assert_close(out, expected[speech], rtol=1e-4, atol=1e-4)


def test_positions_of_speechlm_are_there_and_learn(corpus, teacher):
    model = SpeechLMModel(tiny_pretrain_config(corpus, init_from_pretrained=str(teacher[1]))).train()
    layers, _ = model.encoder.layer_outputs(AUDIO.unsqueeze(1), LENGTH)
    (layers[-1] * torch.randn_like(layers[-1])).sum().backward()
    for half in (model.encoder.speech_transformer, model.encoder.shared_transformer):
        new = [layer.self_attn.norm_k.weight for layer in half.layers] if half.pre_norm else [
            half.relative_positions.table.weight
        ]  # fmt: skip
        for weight in new:
            assert not weight.any()
            assert weight.grad.abs().sum() > 0
    assert model.encoder.shared_transformer.position.table.weight.grad.abs().sum() > 0


def test_what_is_not_filled_is_named_and_the_file_needed_no_more(corpus, teacher, tmp_path):
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    nemo_logging._logger.addHandler(handler)
    nemo_logging.setLevel(logging.INFO)  # whatever other tests left
    try:
        model = SpeechLMModel(tiny_pretrain_config(corpus, init_from_pretrained=str(teacher[1])))
    finally:
        nemo_logging._logger.removeHandler(handler)
    (said,) = [line for line in records if "parameters filled" in line]
    for name in ("encoder.shared_transformer.position.table.weight", "unit_classifiers", "unit_embedding", "ctc_head"):
        assert name in said
    model.save_to(str(tmp_path / "a.nemo"))
    again = SpeechLMModel.restore_from(str(tmp_path / "a.nemo"), map_location="cpu")
    assert again.cfg.init_from_pretrained is None
    assert again.cfg.pretrained_from == str(teacher[1])
    weights = again.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(weights[name], value), name


def test_our_own_with_other_units(corpus, tmp_path):
    first = SpeechLMModel(tiny_pretrain_config(corpus)).eval()
    first.save_to(str(tmp_path / "a.nemo"))
    tiny_hidden_inventory(5).save(tmp_path / "units.json")
    config = tiny_pretrain_config(
        corpus, init_from_pretrained=str(tmp_path / "a.nemo"), units=str(tmp_path / "units.json")
    )
    second = SpeechLMModel(config).eval()
    assert second.unit_embedding.num_embeddings == 5
    for mine, other in zip(layers_of(second), layers_of(first), strict=True):
        assert torch.equal(mine, other)
    with pytest.raises(InputError, match=r"a\.nemo: model.speech_layers is 2; it has 2 layers, so 1 to 1"):
        SpeechLMModel(tiny_pretrain_config(corpus, init_from_pretrained=str(tmp_path / "a.nemo"), speech_layers=2))


def test_mistakes(corpus, teacher, tmp_path):
    with pytest.raises(SpeechLMError, match=r"model\.init_from_pretrained, which is not given"):
        SpeechLMModel(tiny_pretrain_config(corpus, speech_layers=2))
    for layers in (0, 5, "two"):
        with pytest.raises(InputError, match="it has 5 layers, so 1 to 4"):
            SpeechLMModel(tiny_pretrain_config(corpus, init_from_pretrained=str(teacher[1]), speech_layers=layers))
    with pytest.raises(InputError, match=r"gone\.nemo: no such file"):
        SpeechLMModel(tiny_pretrain_config(corpus, init_from_pretrained=str(tmp_path / "gone.nemo")))
    config = tiny_pretrain_config(corpus)
    config.encoder.speech_transformer.n_layers = config.encoder.shared_transformer.n_layers = 2
    SpeechLMModel(config).save_to(str(tmp_path / "own.nemo"))
    with pytest.raises(InputError, match="cannot be divided elsewhere"):
        SpeechLMModel(tiny_pretrain_config(corpus, init_from_pretrained=str(tmp_path / "own.nemo"), speech_layers=1))

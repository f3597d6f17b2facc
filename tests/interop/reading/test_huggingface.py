"""HuBERT and wav2vec 2.0 from Hugging Face folders: the same hidden states as transformers."""

import argparse
import json
import re
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2ForPreTraining,
    Wav2Vec2Processor,
)

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.interop.reading.huggingface import fairseq_name
from nemo_speechlm.interop.reading.kinds import Kind
from nemo_speechlm.interop.reading.source import read_source
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMEncoderModel
from nemo_speechlm.models.common.pretrained import load_encoder, read_pretrained
from nemo_speechlm.modules.preprocessing import normalize_waveform
from tests.functional.commands import run_example
from tests.long_forms import examples

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "intermediate_size": 36,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 4, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 7,
}
POST = TINY | {"feat_extract_norm": "group", "do_stable_layer_norm": False}
PRE = TINY | {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
MODELS = {
    "hubert base": lambda: HubertModel(HubertConfig(**POST)),
    "hubert large": lambda: HubertModel(HubertConfig(**PRE)),
    "hubert of one width": lambda: HubertModel(HubertConfig(**POST | {"conv_dim": (24, 24, 24)})),
    "wav2vec2 pretraining": lambda: Wav2Vec2ForPreTraining(
        Wav2Vec2Config(**POST, codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=4)
    ),
    "wav2vec2 ctc": lambda: Wav2Vec2ForCTC(Wav2Vec2Config(**PRE)),
}


def randomize(model):
    """Initial values are too tame to tell mistakes: many are zero, or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.std() if parameter.numel() > 1 and parameter.std() > 0 else 0.1
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale * 0.5)
    return model.eval()


def save(model, folder, binary=False, **preprocessor):
    model.save_pretrained(folder)
    if binary:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def hidden_states(model, audio):
    base = getattr(model, model.base_model_prefix, model)
    with torch.no_grad():
        output = base(audio, output_hidden_states=True)
    # Theirs lack the norm behind the last layer where layers normalize their input; the output has it.
    return [*output.hidden_states[1:-1], output.last_hidden_state]


def compare(folder, model, output, samples, tolerance, options=Options()):  # noqa: B008
    convert(folder, output, options)
    ours = SpeechLMEncoderModel.restore_from(str(output), map_location="cpu")
    audio = torch.randn(1, samples)
    layers, frames = ours.extract_features(audio, torch.tensor([samples]))
    theirs = hidden_states(model, audio)
    assert len(layers) == len(theirs)
    for mine, other in zip(layers, theirs, strict=True):
        assert mine.shape == other.shape == (1, int(frames), other.shape[2])
        assert (mine - other).abs().max() < tolerance
    return ours


@pytest.mark.parametrize("binary", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("name", MODELS)
def test_hidden_states(tmp_path, name, binary):
    model = randomize(MODELS[name]())
    compare(save(model, tmp_path / "x", binary), model, tmp_path / "y.nemo", 6000, 1e-4)


@pytest.mark.parametrize("name", ["hubert base", "hubert large", "wav2vec2 pretraining"])
def test_the_same_weights_from_fairseq(tmp_path, name):
    """Fairseq's HuBERT and wav2vec 2.0 have the same parameters under other names, and settings of their own."""
    model = randomize(MODELS[name]())
    pre_norm = model.config.do_stable_layer_norm
    state = {fairseq_name(key): value for key, value in model.state_dict().items()}
    if pre_norm:  # fairseq's layer norm is inside another module than its group norm
        state = {re.sub(r"^(feature_extractor\.conv_layers\.\d)\.2\.", r"\1.2.1.", k): v for k, v in state.items()}
    settings = {
        "_name": "hubert" if "hubert" in name else "wav2vec2",
        "layer_norm_first": pre_norm,
        "encoder_attention_heads": 3,
        "conv_feature_layers": "[(16,10,5),(16,3,4)] + [(16,2,2)]",
    }
    state |= {"label_embs_concat": torch.ones(3, 2)} if "hubert" in name else {}
    torch.save({"cfg": {"model": settings, "task": {"normalize": False}}, "model": state}, tmp_path / "x.pt")
    compare(tmp_path / "x.pt", model, tmp_path / "y.nemo", 6000, 1e-4)
    old = {"args": argparse.Namespace(**settings, arch=settings.pop("_name")), "model": state}
    torch.save(old, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    compare(tmp_path / "old.pt", model, tmp_path / "z.nemo", 6000, 1e-4)
    tuned = {f"w2v_encoder.w2v_model.{key}": value for key, value in state.items()}
    tuned |= {"w2v_encoder.proj.weight": torch.ones(5, 24), "w2v_encoder.proj.bias": torch.ones(5)}
    inner = {"model": settings, "task": {"normalize": False}}
    cfg = {"model": {"_name": "hubert_ctc", "w2v_args": inner, "mask_prob": 0.65}, "task": {"normalize": False}}
    torch.save({"cfg": cfg, "model": tuned}, tmp_path / "tuned.pt")
    compare(tmp_path / "tuned.pt", model, tmp_path / "t.nemo", 6000, 1e-4)
    for path in ("x.pt", "old.pt", "tuned.pt"):
        assert read_source(tmp_path / path).kind is (Kind.HUBERT if "hubert" in name else Kind.WAV2VEC2)


@pytest.mark.parametrize("layers", [1, 4])
def test_split_into_speech_and_shared(tmp_path, layers):
    model = randomize(MODELS["hubert large"]())
    options = Options(speech_layers=layers)
    ours = compare(save(model, tmp_path / "x"), model, tmp_path / "y.nemo", 6000, 1e-4, options)
    assert len(ours.encoder.speech_transformer.layers) == layers
    assert len(ours.encoder.shared_transformer.layers) == 5 - layers
    with pytest.raises(InputError, match="5 of its 5 layers as speech transformer; expected 1 to 4"):
        convert(tmp_path / "x", tmp_path / "z.nemo", Options(speech_layers=5))
    with pytest.raises(InputError, match="0 of its 5 layers as speech transformer; expected 1 to 4"):
        convert(tmp_path / "x", tmp_path / "z.nemo", Options(speech_layers=0))


def test_hubert_base(tmp_path):
    model = HubertModel(HubertConfig(num_hidden_layers=examples(3, 12))).eval()
    compare(save(model, tmp_path / "x"), model, tmp_path / "y.nemo", 8000, 1e-4)


def test_features_do_not_depend_on_the_batch(tmp_path):
    convert(save(randomize(MODELS["hubert base"]()), tmp_path / "x"), tmp_path / "y.nemo")
    ours = SpeechLMEncoderModel.restore_from(str(tmp_path / "y.nemo"), map_location="cpu")
    audio = torch.randn(2, 6000)
    audio[1, 3000:] = 0
    batch, frames = ours.extract_features(audio, torch.tensor([6000, 3000]))
    alone, _ = ours.extract_features(audio[1:, :3000], torch.tensor([3000]))
    for together, single in zip(batch, alone, strict=True):
        torch.testing.assert_close(together[1:, : frames[1]], single, rtol=1e-4, atol=1e-4)


def test_normalized_input(tmp_path):
    model = randomize(MODELS["hubert large"]())
    folder = save(model, tmp_path / "x", do_normalize=True)
    convert(folder, tmp_path / "y.nemo")
    ours = SpeechLMEncoderModel.restore_from(str(tmp_path / "y.nemo"), map_location="cpu")
    audio, length = torch.randn(1, 5000) * 3 + 1, torch.tensor([5000])
    (last,), _ = ours.extract_features(audio, length, layers=[-1])
    torch.testing.assert_close(last, hidden_states(model, normalize_waveform(audio, length))[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_processor_says_whether_input_is_normalized(tmp_path, normalize):
    folder = save(MODELS["wav2vec2 ctc"](), tmp_path / "x")
    vocabulary = ("<pad>", "<s>", "</s>", "<unk>", "|", "a")
    (tmp_path / "vocab.json").write_text(json.dumps({symbol: place for place, symbol in enumerate(vocabulary)}))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize)
    tokenizer = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    for save_more in (lambda: None, lambda: extractor.save_pretrained(folder)):
        save_more()
        source = read_source(folder)
        assert (source.normalize, source.normalize_assumed) == (normalize, False)


def test_a_folder_that_does_not_say_how_input_is_normalized(tmp_path, capsys, caplog):
    folder = save(MODELS["hubert base"](), tmp_path / "x")
    assert run_example("convert_checkpoint.py", "--input", folder, "--list") == 0
    assert "input: as it is (assumed: " in capsys.readouterr().out
    assert run_example("convert_checkpoint.py", "--input", folder, "--output", tmp_path / "y.nemo") == 0
    assert "as it is (assumed: " in caplog.text
    (folder / "preprocessor_config.json").write_text("{}")
    assert read_source(folder).normalize  # the default of transformers


def test_a_start_for_fine_tuning(tmp_path):
    convert(save(randomize(MODELS["hubert base"]()), tmp_path / "x"), tmp_path / "y.nemo")
    source = read_pretrained(tmp_path / "y.nemo")
    cfg = {
        "init_from_pretrained": str(tmp_path / "y.nemo"),
        "decoder": {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead", "feat_in": 24},
    }
    model = SpeechLMCTCModel(OmegaConf.create(cfg))
    load_encoder(model, source)
    loaded = model.encoder.state_dict()
    for name, value in source.part("encoder").items():
        assert torch.equal(loaded[name], value), name


def test_shards(tmp_path):
    model = randomize(MODELS["hubert base"]())
    folder = save(model, tmp_path / "x")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {"a.safetensors": dict(list(weights.items())[::2]), "b.safetensors": dict(list(weights.items())[1::2])}
    for name, part in files.items():
        save_file(part, folder / name)
    index = {"weight_map": {key: name for name, part in files.items() for key in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    compare(folder, model, tmp_path / "y.nemo", 6000, 1e-4)
    index["weight_map"][next(iter(weights))] = "../../secret.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"index\.json: weight_map does not name files of its folder"):
        convert(folder, tmp_path / "z.nemo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "wavlm"}, r"config\.json: model_type is 'wavlm', expected 'hubert' or 'wav2vec2'"),
        ({"hidden_act": "relu"}, "activation_fn is 'relu'; only 'gelu'"),
        ({"conv_pos_batch_norm": True}, "conv_pos_batch_norm is True"),
        ({"add_adapter": True}, "add_adapter is True"),
        ({"num_attention_heads": 5}, "attention heads is 5"),
        ({"conv_stride": [1]}, "is not the config of a HuBERT"),
        ({"num_conv_pos_embeddings": 8}, None),  # the tensors say better
        ("{", "is not JSON"),
        ("[]", "expected a JSON object"),
        (None, "no such file; expected a Hugging Face folder"),
    ],
)
def test_configs_that_cannot_be_converted(tmp_path, change, message):
    folder = save(MODELS["hubert base"](), tmp_path / "x")
    path = folder / "config.json"
    if isinstance(change, dict):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    elif change is None:
        path.unlink()
    else:
        path.write_text(change)
    if message is None:
        convert(folder, tmp_path / "y.nemo")
        return
    with pytest.raises(InputError, match=message):
        convert(folder, tmp_path / "y.nemo")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_weights_that_cannot_be_read(tmp_path):
    folder = save(MODELS["hubert base"](), tmp_path / "x")
    whole = (folder / "model.safetensors").read_bytes()
    for size in (0, 5, 100, len(whole) - 10):
        (folder / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"model\.safetensors: is not a safetensors file"):
            convert(folder, tmp_path / "y.nemo")
    with pytest.raises(InputError, match=r"give the folder that it is in"):
        convert(folder / "model.safetensors", tmp_path / "y.nemo")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"neither model\.safetensors nor"):
        convert(folder, tmp_path / "y.nemo")
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such file"):
        convert(folder, tmp_path / "y.nemo")

"""Translation checkpoints: of other sizes than the golden one, wrong ones, and the way back."""

import json

import pytest
import torch
from nemo.collections.asr.models import ASRModel

from nemo_speechlm.decoding.attention_search import SearchSettings
from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.listing import describe
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.interop.reading.source import read_source
from nemo_speechlm.interop.writing.checkpoint import export_fairseq
from nemo_speechlm.models import SpeechLMEncDecModel
from tests.golden import GOLDEN, needs_golden
from tests.interop.checkpoints import PIECES, SPECIAL, expect_refusal, linear, save, translation, write_dictionary


@pytest.fixture
def options(tmp_path):
    return Options(label_dictionary=write_dictionary(tmp_path / "dict.txt", PIECES))


SIZES = [
    {},
    {"width": 24, "heads": 2, "count": 1, "pre_norm": True, "tied": True},
    {"relative": False, "heads": 4, "pre_norm": True},
]


@pytest.mark.parametrize("sizes", SIZES)
def test_other_sizes(tmp_path, options, sizes):
    content = translation(**sizes)
    plan = convert(save(content, tmp_path / "x.pt"), tmp_path / "y.nemo", options)
    model = ASRModel.restore_from(str(tmp_path / "y.nemo"), map_location="cpu").eval()
    assert isinstance(model, SpeechLMEncDecModel)
    state = model.state_dict()
    for ours, theirs in plan.names.items():
        torch.testing.assert_close(state[ours], content["model"][theirs])
    assert len(model.decoder.layers) == sizes.get("count", 3)
    assert len(model.decoder.layers[0].self_attn.k_proj.weight) == sizes.get("width", 20)
    assert model.decoder.layers[0].cross_attn.n_heads == sizes.get("heads", 5)
    assert model.decoder.layerdrop == 0.2
    assert model.search == SearchSettings(beam_size=5, length_penalty=1.0, max_length=512)  # the released recipe's
    assert not model.encoder.front_end.convs[0].weight.requires_grad
    assert model.vocabulary.symbols[4:] == [" ", "a", "b", "ü", "."]
    assert model.vocabulary.decode(model.vocabulary("ab  üa.")) == "ab üa."
    assert isinstance(model.transcribe([torch.randn(17000)], verbose=False)[0].text, str)


@pytest.mark.parametrize("sizes", SIZES)
def test_there_and_back_and_there(tmp_path, options, sizes):
    content = translation(**sizes)
    tables = [name for name in content["model"] if name.startswith("encoder.") and name.endswith("pe_k.weight")]
    content["model"] |= {name: torch.randn(320, 4) for name in tables}  # other distances cannot go back
    convert(save(content, tmp_path / "x.pt"), tmp_path / "x.nemo", options)
    export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    convert(tmp_path / "y.pt", tmp_path / "y.nemo", options)
    first, second = (SpeechLMEncDecModel.restore_from(str(tmp_path / f"{n}.nemo"), map_location="cpu") for n in "xy")
    weights = second.state_dict()
    assert first.state_dict().keys() == weights.keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, weights[name]), name
    for part in ("encoder", "decoder", "decoding", "labels", "final_dropout", "freeze_front_end", "preprocessor"):
        assert first.cfg[part] == second.cfg[part], part


@needs_golden
@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint_plain.pt"])
def test_golden_round_trip(tmp_path, name):
    folder = GOLDEN / "speechlm_st_tiny"
    symbols = json.loads((folder / "dictionaries.json").read_text())["target_dictionary"]
    dictionary = Options(label_dictionary=write_dictionary(tmp_path / "dict.txt", symbols))
    convert(folder / name, tmp_path / "x.nemo", dictionary)
    export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    ours = torch.load(tmp_path / "y.pt", weights_only=True)
    theirs = torch.load(folder / "checkpoint_plain.pt", weights_only=True)
    heads = ("label_embs", "unit_embed_tokens", "unit_encoder.embed_tokens", "unit_encoder_ctc_head")
    left = {key for key in theirs["model"] if key.removeprefix("encoder.w2v_model.").startswith(heads)}
    assert ours["model"].keys() == theirs["model"].keys() - left
    for key, value in ours["model"].items():
        if not any(part in key for part in ("norm_k", "_float_tensor", "final_proj_list")):
            assert torch.equal(value, theirs["model"][key]), key
    released = theirs["cfg"]["model"]
    for key, value in ours["cfg"]["model"].items():
        if key in released and key not in ("w2v_path", "w2v_args"):
            assert value == released[key], key


def edited(name):
    content = translation()
    state, settings = content["model"], vars(content["cfg"]["model"])
    if name == "missing":
        del state["decoder.layers.1.encoder_attn.v_proj.bias"]
    elif name == "unused":
        state |= linear("decoder.adaptive_softmax.head", 3, 3)
    elif name == "shape":
        state["decoder.layers.2.fc1.bias"] = torch.randn(7)
    elif name == "layer":
        content["model"] = {k: v for k, v in state.items() if not k.startswith("decoder.layers.1.")}
    elif name == "setting":
        settings["activation_fn"] = "relu"
    elif name == "positions":
        state["decoder.embed_positions.weight"] = torch.randn(9, 20)
    elif name == "order":
        settings["decoder_normalize_before"] = True
    elif name == "embedding":
        del state["decoder.embed_tokens.weight"]
    return content


ERRORS = {
    "missing": r"missing: decoder\.layers\.1\.cross_attn\.v_proj\.bias",
    "unused": r"no place: decoder\.adaptive_softmax\.head\.bias",
    "shape": r"decoder\.layers\.2\.fc1\.bias is \(7,\), expected \(28,\)",
    "layer": r"has decoder layers \[0, 2\] only",
    "setting": r"activation_fn is 'relu'; only 'gelu'",
    "positions": r"no place: decoder\.embed_positions\.weight",
    "order": r"decoder_normalize_before is True, but decoder\.layer_norm is missing",
    "embedding": r"has no matrix decoder\.embed_tokens\.weight",
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_does_not_fit_is_listed(tmp_path, options, name):
    expect_refusal(edited(name), tmp_path, options, ERRORS[name])


def test_dictionary(tmp_path):
    path = save(translation(), tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"no dictionary of the 9 tokens .*--label-dictionary"):
        convert(path, tmp_path / "y.nemo")
    pieces = write_dictionary(tmp_path / "pieces.txt", [*SPECIAL, "▁", "▁the", "ab", "ü", "."])
    convert(path, tmp_path / "y.nemo", Options(label_dictionary=pieces))
    vocabulary = SpeechLMEncDecModel.restore_from(str(tmp_path / "y.nemo"), map_location="cpu").vocabulary
    assert vocabulary.decode([5, 4, 6, 8, 2]) == "the ab."
    with pytest.raises(InputError, match=r"'▁the'.*more than single characters"):
        vocabulary("the ab.")


def test_listing(tmp_path, options):
    listed = "\n".join(describe(read_source(save(translation(), tmp_path / "x.pt")), options))
    assert "fine-tuned with a decoder" in listed
    assert "decoder.pos_emb.pe_k.weight (48, 4) float32 -> decoder.relative_positions.table.weight" in listed
    assert "left: post-norm layers own it" in listed

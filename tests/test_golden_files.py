"""Every file of the released implementation's against our models, value by value: none of them is left out."""

import json
from functools import cache
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.interop.parts.encoder_config import encoder_config
from nemo_speechlm.interop.planning import make_plan
from nemo_speechlm.interop.reading.kinds import Kind
from nemo_speechlm.interop.reading.source import read_source
from tests.golden import GOLDEN, Reproduced, fine_tuning, load, needs_golden, pretraining, released, symbols

pytestmark = needs_golden
CONF = Path(__file__).parent.parent / "conf"
FILES = sorted(str(p.relative_to(GOLDEN)) for suffix in ("pt", "json") for p in GOLDEN.rglob(f"*.{suffix}"))


@cache
def reproduced(file: str) -> tuple[Reproduced, set[str]]:
    """What our model has for the values of a file of tensors; and the names of what it was given for that."""
    folder, name = file.split("/")
    stem = name.removesuffix(".pt")
    if stem == "outputs":
        of_folder = {
            "speechlm_ctc_tiny": fine_tuning.ctc,
            "speechlm_st_tiny": fine_tuning.translation,
            "fasttext2unit_tiny": fine_tuning.text_to_unit,
        }
        return of_folder[folder](folder, name)
    of_stem = {
        "features": pretraining.features,
        "features_long": pretraining.features_long,
        "grads": pretraining.gradients,
    }
    return of_stem.get(stem, pretraining.losses)(folder, name)


def compare_tensors(file, _tmp_path):
    golden = load(file)
    ours, given = reproduced(file)
    assert golden.keys() - given == ours.keys(), "every value is compared, or given to our model"
    wrong = {name: said for name, value in ours.items() if (said := value.difference(golden[name]))}
    assert not wrong


def compare_checkpoint(file, _tmp_path):
    """Each tensor is one of our parameters, or is left for a reason; the two forms of a checkpoint become the same."""
    model, plan = released(file)
    state = model.state_dict()
    assert state.keys() == plan.names.keys()
    assert plan.source.weights.keys() == set(plan.names.values()) | plan.left.keys()
    try:
        content = torch.load(GOLDEN / file, weights_only=True)["model"]
    except UnpicklingError:  # it holds objects of fairseq's or argparse's
        content = plan.source.weights
    for ours, theirs in plan.names.items():
        rolled = "ctc_head.linear" in ours or ours.startswith("decoder.linear")  # our blank is the last class
        assert torch.equal(state[ours], content[theirs].roll(-1, 0) if rolled else content[theirs]), ours
    folder = file.split("/")[0]
    for other in (name for name in FILES if name.startswith(f"{folder}/checkpoint") and name != file):
        again, _ = released(other)
        assert again.cfg.get("labels") == model.cfg.get("labels")
        assert getattr(again, "inventory", None) == getattr(model, "inventory", None)
        for name, value in again.state_dict().items():
            assert torch.equal(state[name], value), name


def compare_dictionaries(file, _tmp_path):
    folder = file.split("/")[0]
    model, _ = released(f"{folder}/checkpoint.pt")
    found = symbols(folder)
    units = found.get("text_src_dictionary") or found.get("tgt_dict")
    if units:
        assert list(model.inventory.symbols) == units
    if "src_dict" in found:
        assert list(model.phones.symbols) == found["src_dict"]
        assert (model.phones.silence, model.inventory.kind, model.inventory.frame_rate) == ("<SIL>", "hidden", 50)
    characters = found.get("text_dictionary") or found.get("target_dictionary")
    if folder == "speechlm_st_tiny":
        assert model.vocabulary.symbols == [" " if symbol == "▁" else symbol for symbol in characters]
    elif characters:
        assert list(model.cfg.labels) == [" " if symbol == "|" else symbol for symbol in characters[1:]]
    assert units or characters


def compare_settings(file, _tmp_path):
    """What fairseq wrote about a model is what we read of its checkpoint."""
    path = GOLDEN / file
    source = read_source(path.parent / "checkpoint.pt")
    content = json.loads(path.read_text())
    expected = content.get("model", content)
    found = dict(source.fine_tuning or source.settings)
    common = [key for key in expected if key in found and key != "w2v_args"]
    assert len(common) > 10
    for key in common:
        assert found[key] == expected[key] or str(found[key]) == str(expected[key]), key
    if source.kind is Kind.PRETRAINED:  # sizes are found in the tensors, whatever the settings say
        built = encoder_config(source.encoder_weights(), {"encoder_attention_heads": 1}, True)
        speech, shared = built["speech_transformer"], built["shared_transformer"]
        text = expected["text_transformer"]["encoder"]
        assert built["d_model"] == expected["encoder_embed_dim"]
        sizes = [speech[name] for name in ("n_layers", "d_ff", "n_heads", "pre_norm")]
        names = ("encoder_layers", "encoder_ffn_embed_dim", "encoder_attention_heads", "layer_norm_first")
        assert sizes == [expected[name] for name in names]
        sizes = [shared[name] for name in ("n_layers", "d_ff", "n_heads", "pre_norm")]
        assert sizes == [text[name] for name in ("layers", "ffn_embed_dim", "attention_heads", "normalize_before")]


def compare_cleaned(file, tmp_path):
    """A checkpoint without these keys is a "cleaned" one, and keeps its encoder."""
    folder = file.split("/")[0]
    content = torch.load(GOLDEN / folder / "checkpoint.pt", weights_only=True)
    for key in json.loads((GOLDEN / file).read_text())["dropped_in_cleaned_checkpoint"]:
        del content["model"][key]
    torch.save(content, tmp_path / "cleaned.pt")
    source = read_source(tmp_path / "cleaned.pt")
    assert source.kind is Kind.CLEANED
    weights = make_plan(source).weights
    whole, _ = released(f"{folder}/checkpoint_real_structure.pt")
    encoder = {f"encoder.{name}": value for name, value in whole.encoder.state_dict().items()}
    assert weights.keys() == encoder.keys()
    for name, value in encoder.items():
        assert torch.equal(weights[name], value), name


def compare_base_recipe(file, _tmp_path):
    """Sizes, dropout and masking of our Base recipe against the configuration in the released Base checkpoint."""
    released = json.loads((GOLDEN / file).read_text())["model"]
    recipe = OmegaConf.load(CONF / "architecture" / "base.yaml")
    config = OmegaConf.create({"model": recipe})
    speech, shared = config.model.encoder.speech_transformer, config.model.encoder.shared_transformer
    text = released["text_transformer"]["encoder"]
    for own, key in (
        ("n_layers", "encoder_layers"),
        ("d_ff", "encoder_ffn_embed_dim"),
        ("n_heads", "encoder_attention_heads"),
    ):
        assert speech[own] == released[key], key
    for own, key in (("n_layers", "layers"), ("d_ff", "ffn_embed_dim"), ("n_heads", "attention_heads")):
        assert shared[own] == text[key], key
    assert config.model.encoder.d_model == released["encoder_embed_dim"] == text["embed_dim"]
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        assert speech[name] == released[name], name
        assert shared[name] == released["text_transformer"][name], name
    assert speech.layerdrop == released["encoder_layerdrop"]
    assert shared.layerdrop == text["layerdrop"]
    assert config.model.encoder.dropout_input == released["dropout_input"]
    assert config.model.encoder.front_end.gradient_scale == released["feature_grad_mult"]
    assert speech.pre_norm == released["layer_norm_first"]
    pretrain = OmegaConf.load(CONF / "pretrain.yaml").model
    assert pretrain.unit_classifier.final_dim == released["final_dim"]
    assert pretrain.masking.prob == released["mask_prob"]
    assert pretrain.masking.length == released["mask_length"]
    assert pretrain.swapping.prob == released["mask_prob"] / 2
    assert pretrain.swapping.length == released["mask_length"] // 2


COMPARISONS = {
    "checkpoint.pt": compare_checkpoint,
    "checkpoint_real_structure.pt": compare_checkpoint,
    "checkpoint_plain.pt": compare_checkpoint,
    "dictionaries.json": compare_dictionaries,
    "cfg.json": compare_settings,
    "cleaned_keys.json": compare_cleaned,
    "speechlm_p_base_cfg.json": compare_base_recipe,
}


@pytest.mark.parametrize("file", FILES)
def test_file(file, tmp_path):
    """1e-5 relative for features and losses, 1e-4 for gradients, exact for tokens and whole numbers."""
    COMPARISONS.get(file.split("/")[-1], compare_tensors)(file, tmp_path)


def spoiled(value, floor):
    """A value that is wrong, hardly: its largest entry by a thousandth (of ``floor``, where that is more)."""
    if isinstance(value, str):
        return None
    if not isinstance(value, torch.Tensor):
        return value * 1.001 + (1 if isinstance(value, int) else 0)
    wrong = value.clone()
    largest = wrong.abs().flatten().argmax() if value.dtype != torch.bool else 0
    if value.dtype == torch.bool:
        wrong = ~wrong
    elif value.is_floating_point():
        wrong.view(-1)[largest] += 1e-3 * max(float(wrong.abs().max()), floor)
    else:
        wrong.view(-1)[largest] += 1
    return wrong


@pytest.mark.parametrize("file", [name for name in FILES if name.endswith(".pt") and "checkpoint" not in name])
def test_a_wrong_value_is_seen(file):
    """Each of the values, off by a thousandth in its largest entry."""
    golden = load(file)
    for name, value in reproduced(file)[0].items():
        wrong = spoiled(golden[name], value.floor)
        if wrong is None or (value.where is not None and torch.is_tensor(wrong) and not _inside(value, golden[name])):
            continue
        assert value.difference(wrong), name


def _inside(value, golden):
    """Whether the largest entry is one that is compared (padding is not)."""
    if golden.dtype == torch.bool:
        return True
    theirs = value.theirs(torch.arange(golden.numel()).view(golden.shape))
    return bool((theirs[value.where] == golden.abs().flatten().argmax()).any())

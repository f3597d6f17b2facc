"""Every file of the released implementation's has a test that reads it; what no other test reads is compared here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.interop.encoder_config import encoder_config
from nemo_speechlm.interop.plan import Options, make_plan
from nemo_speechlm.interop.source import Kind, read_source
from tests.golden import GOLDEN, converted, needs_golden

pytestmark = needs_golden
TESTS = Path(__file__).parent
CONF = TESTS.parent / "conf"
HERE = Path(__file__).name

LOSSES, LAYERS = "models/test_golden_losses.py", "models/test_golden_layers.py"
FEATURES, CTC = "modules/test_golden_features.py", "models/test_golden_ctc.py"
TRANSLATION, TEXT_TO_UNIT = "models/test_golden_encdec.py", "models/test_golden_text_to_unit.py"

PRETRAINED = {
    "checkpoint.pt": (HERE, "interop/test_export.py"),
    "checkpoint_real_structure.pt": (HERE, LOSSES, FEATURES),
    "cleaned_keys.json": (HERE, "interop/test_export.py"),
    "cfg.json": (HERE, "interop/test_export.py"),
    "dictionaries.json": (HERE,),
    "features.pt": (FEATURES, LAYERS),
    "features_long.pt": (FEATURES,),
    "grads.pt": (LOSSES,),
    "loss.pt": (LOSSES, LAYERS),
    "loss_label_short.pt": (LOSSES,),
    "loss_trimmed.pt": (LOSSES,),
}
FINE_TUNED = {"cfg.json": (HERE,), "checkpoint.pt": (HERE,)}
TESTED = {
    "speechlm_p_tiny": PRETRAINED | {"loss_offset0.pt": (LOSSES,)},
    "speechlm_large_tiny": PRETRAINED,
    "speechlm_ctc_tiny": FINE_TUNED | {"checkpoint.pt": (CTC,), "dictionaries.json": (CTC,), "outputs.pt": (CTC,)},
    "speechlm_st_tiny": FINE_TUNED
    | dict.fromkeys(("checkpoint.pt", "checkpoint_plain.pt", "dictionaries.json", "outputs.pt"), (TRANSLATION,)),
    "fasttext2unit_tiny": FINE_TUNED
    | dict.fromkeys(("checkpoint.pt", "checkpoint_plain.pt", "dictionaries.json", "outputs.pt"), (TEXT_TO_UNIT,)),
    ".": {"speechlm_p_base_cfg.json": (HERE,)},
}
FILES = sorted(p.relative_to(GOLDEN) for suffix in ("pt", "json") for p in GOLDEN.rglob(f"*.{suffix}"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_has_a_test(file):
    modules = TESTED.get(str(file.parent), {}).get(file.name)
    assert modules, f"no test compares {file}: write one, and name it here"
    for module in modules:
        text = (TESTS / module).read_text(encoding="utf-8")
        assert file.parent.name in text, f"{module} does not name {file.parent}"
        assert file.stem in text, f"{module} does not name {file.name}"


def test_nothing_is_named_that_is_not_there():
    named = {str(Path(folder) / name) for folder, files in TESTED.items() for name in files}
    assert named <= set(map(str, FILES))


FOLDERS = ["speechlm_p_tiny", "speechlm_large_tiny"]


@pytest.fixture(params=FOLDERS)
def folder(request):
    return GOLDEN / request.param


def dictionary_options(folder, tmp_path):
    """The symbols in dictionaries.json as the files that fairseq would have."""
    symbols = json.loads((folder / "dictionaries.json").read_text())
    found = {}
    for option, names in (
        ("unit_dictionary", ("text_src_dictionary", "dictionaries")),
        ("label_dictionary", ("text_dictionary",)),
    ):
        own = next((symbols[name] for name in names if name in symbols), None)
        if own is not None:
            own = own[0] if isinstance(own[0], list) else own
            found[option] = tmp_path / f"{option}.txt"
            found[option].write_text("".join(f"{symbol} 1\n" for symbol in own[4:]))
    return replace(Options(), **found)


def test_both_forms_of_a_checkpoint_become_the_same(folder, tmp_path):
    real, _ = converted(f"{folder.name}/checkpoint_real_structure.pt")
    plain, _ = converted(f"{folder.name}/checkpoint.pt", dictionary_options(folder, tmp_path))
    assert real.cfg.labels == plain.cfg.labels
    assert real.inventory == plain.inventory
    for name, value in real.state_dict().items():
        assert torch.equal(plain.state_dict()[name], value), name


def test_a_cleaned_checkpoint_keeps_its_encoder(folder, tmp_path):
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    dropped = json.loads((folder / "cleaned_keys.json").read_text())["dropped_in_cleaned_checkpoint"]
    for key in dropped:
        del content["model"][key]
    torch.save(content, tmp_path / "cleaned.pt")
    source = read_source(tmp_path / "cleaned.pt")
    assert source.kind is Kind.CLEANED
    weights = make_plan(source).weights
    whole, _ = converted(f"{folder.name}/checkpoint_real_structure.pt")
    encoder = {f"encoder.{name}": value for name, value in whole.encoder.state_dict().items()}
    assert weights.keys() == encoder.keys()
    for name, value in encoder.items():
        assert torch.equal(weights[name], value), name


@pytest.mark.parametrize("name", [name for name in TESTED if name != "."])
def test_settings_are_read_from_a_checkpoint(name):
    source = read_source(GOLDEN / name / "checkpoint.pt")
    released = json.loads((GOLDEN / name / "cfg.json").read_text())
    expected = released.get("model", released)
    found = dict(source.fine_tuning or source.settings)
    common = [key for key in expected if key in found and key != "w2v_args"]
    assert len(common) > 10
    for key in common:
        assert found[key] == expected[key] or str(found[key]) == str(expected[key]), key


def test_base_recipe_is_the_released_one(folder):
    """Sizes, dropout and masking of our Base recipe against the configuration in the released Base checkpoint."""
    released = json.loads((GOLDEN / "speechlm_p_base_cfg.json").read_text())["model"]
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
    # and the tiny checkpoint's sizes are found in its tensors, whatever its settings say
    source = read_source(folder / "checkpoint.pt")
    built = encoder_config(source.encoder_weights(), source.settings, True)
    assert built["d_model"] == json.loads((folder / "cfg.json").read_text())["model"]["encoder_embed_dim"]

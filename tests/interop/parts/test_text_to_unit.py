"""Text-to-unit checkpoints of sizes that no golden file has, there and back; what is wrong with one is listed."""

import json

import pytest
import torch

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.parts.text_to_unit import our_name, released_name
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.interop.writing.checkpoint import export_fairseq
from nemo_speechlm.models import TextToUnitModel
from nemo_speechlm.testing.configs import tiny_text_to_unit_config
from tests.functional.commands import run_example
from tests.golden import GOLDEN, needs_golden
from tests.interop.checkpoints import HIDDEN, PHONES, SPECIAL, expect_refusal, save, text_to_unit, write_dictionary


@pytest.fixture
def options(tmp_path):
    return Options(
        phone_dictionary=write_dictionary(tmp_path / "dict.phones.txt", PHONES),
        unit_dictionary=write_dictionary(tmp_path / "dict.km.txt", HIDDEN),
    )


def restore(path):
    return TextToUnitModel.restore_from(str(path), map_location="cpu").eval()


@pytest.mark.parametrize("speakers", [0, 4])
def test_another_size(tmp_path, options, speakers):
    content = text_to_unit(speakers=speakers)
    plan = convert(save(content, tmp_path / "x.pt"), tmp_path / "y.nemo", options)
    model = restore(tmp_path / "y.nemo")
    assert list(model.phones.symbols) == PHONES
    assert model.phones.silence == "SIL"
    assert list(model.inventory.symbols) == HIDDEN
    assert (len(model.encoder.layers), len(model.decoder.layers)) == (3, 1)
    assert model.encoder.layers[0].self_attn.n_heads == 3
    assert model.encoder.layers[0].conv1.kernel_size == (5,)
    assert model.encoder.dropout.p == model.encoder.layers[0].dropout.p == 0.2
    assert model.released_padding
    assert model.speakers == [f"s{number}" for number in range(speakers)]
    state = model.state_dict()
    assert state.keys() == plan.names.keys()
    for ours, theirs in plan.names.items():
        assert torch.equal(state[ours], content["model"][theirs]), ours
    voices = torch.tensor([speakers - 1]) if speakers else None
    output = model(torch.tensor([[4, 5, 6]]), torch.tensor([3]), torch.tensor([[2, 0, 3]]), voices)
    assert output.logits.shape == (1, 5, len(HIDDEN))


def test_exact_padding_is_an_option(tmp_path, options):
    chosen = Options(**{**vars(options), "released_padding": False})
    convert(save(text_to_unit(), tmp_path / "x.pt"), tmp_path / "y.nemo", chosen)
    assert not restore(tmp_path / "y.nemo").decoder.released_padding


@pytest.mark.parametrize("speakers", [0, 4])
def test_round_trip(tmp_path, options, speakers):
    content = text_to_unit(speakers=speakers)
    convert(save(content, tmp_path / "x.pt"), tmp_path / "y.nemo", options)
    export_fairseq(tmp_path / "y.nemo", tmp_path / "z.pt")
    again = torch.load(tmp_path / "z.pt", weights_only=True)
    assert again["model"].keys() == content["model"].keys()
    for name, value in again["model"].items():
        assert value.shape == content["model"][name].shape
        assert torch.equal(value, content["model"][name]) or "pitch" in name or "energy" in name or "_float" in name
    for name, value in content["cfg"]["model"].items():
        assert again["cfg"]["model"][name] == value, name
    assert (tmp_path / "z.units.dict.txt").read_text().split() == "0 1 1 1 2 1 3 1 4 1".split()
    written = Options(phone_dictionary=tmp_path / "z.phones.dict.txt", unit_dictionary=tmp_path / "z.units.dict.txt")
    convert(tmp_path / "z.pt", tmp_path / "again.nemo", written)
    before, after = (restore(tmp_path / name).state_dict() for name in ("y.nemo", "again.nemo"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@needs_golden
def test_golden_round_trip(tmp_path):
    symbols = json.loads((GOLDEN / "fasttext2unit_tiny/dictionaries.json").read_text())
    options = Options(
        phone_dictionary=write_dictionary(tmp_path / "src", symbols["src_dict"]),
        unit_dictionary=write_dictionary(tmp_path / "tgt", symbols["tgt_dict"]),
    )
    convert(GOLDEN / "fasttext2unit_tiny/checkpoint.pt", tmp_path / "x.nemo", options)
    export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    ours = torch.load(tmp_path / "y.pt", weights_only=True)
    theirs = torch.load(GOLDEN / "fasttext2unit_tiny/checkpoint_plain.pt", weights_only=True)
    assert ours["model"].keys() == theirs["model"].keys()
    for name, value in ours["model"].items():
        unused = "pitch" in name or "energy" in name or "_float" in name
        assert unused or torch.equal(value, theirs["model"][name]), name
    differing = {
        name
        for name, value in ours["cfg"]["model"].items()
        if value != theirs["cfg"]["model"][name] and name not in ("pitch_min", "pitch_max", "energy_min", "energy_max")
    }
    assert differing == {"var_pred_n_bins"}


def test_our_own_model_gets_rows_for_special_symbols(tmp_path):
    model = TextToUnitModel(tiny_text_to_unit_config(tmp_path)).eval()
    model.save_to(str(tmp_path / "x.nemo"))
    export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    options = Options(
        phone_dictionary=tmp_path / "y.phones.dict.txt",
        unit_dictionary=tmp_path / "y.units.dict.txt",
        released_padding=False,
    )
    convert(tmp_path / "y.pt", tmp_path / "z.nemo", options)
    again = restore(tmp_path / "z.nemo")
    assert again.inventory.symbols == (*SPECIAL, *model.inventory.symbols)
    phones, lengths, durations = torch.tensor([[1, 3, 2]]), torch.tensor([3]), torch.tensor([[2, 1, 4]])
    first, second = model(phones, lengths, durations), again(phones + len(SPECIAL), lengths, durations)
    torch.testing.assert_close(second.logits[..., len(SPECIAL) :], first.logits)
    torch.testing.assert_close(second.log_durations, first.log_durations)
    assert second.logits[..., : len(SPECIAL)].max() < -9000


def test_what_the_released_code_cannot_be(tmp_path):
    cfg = tiny_text_to_unit_config(tmp_path)
    cfg.decoder.kernel = 7
    TextToUnitModel(cfg).save_to(str(tmp_path / "x.nemo"))
    with pytest.raises(InputError, match=r"x\.nemo: kernel is 3 in the encoder and 7 in the decoder"):
        export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    assert not list(tmp_path.glob("y*"))


def edited(name):
    content = text_to_unit()
    state, model = content["model"], content["cfg"]["model"]
    if name == "missing":
        del state["encoder.decoder_fft_layers.0.ffn.ffn.0.bias"]
    elif name == "unused":
        state["encoder.postnet.0.weight"] = torch.randn(2)
    elif name == "shape":
        state["encoder.encoder_fft_layers.1.self_attn.k_proj.weight"] = torch.randn(12, 11)
    elif name == "layer":
        for key in [key for key in state if "encoder_fft_layers.1" in key]:
            del state[key]
    elif name == "heads":
        model["decoder_attention_heads"] = 5
    elif name == "pitch":
        model["use_pitch"] = True
    elif name == "embedding":
        state["encoder.embed_tokens.weight"] = torch.randn(3)
    return content


ERRORS = {
    "missing": r"missing: decoder\.layers\.0\.conv1\.bias \(--allow-missing",
    "unused": r"no place: encoder\.postnet\.0\.weight \(--allow-unused",
    "shape": r"encoder_fft_layers\.1\.self_attn\.k_proj\.weight is \(12, 11\), expected \(12, 12\)",
    "layer": r"has layers \[0, 2\] in encoder\.encoder_fft_layers",
    "heads": r"number of attention heads is 5; expected a divisor of its width, 12",
    "pitch": r"use_pitch is True; only False",
    "embedding": r"embed_tokens\.weight of 2 dimensions, found one of shape \(3,\)",
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_does_not_fit_is_listed(tmp_path, options, name):
    expect_refusal(edited(name), tmp_path, options, ERRORS[name])


def test_dictionaries_are_needed(tmp_path, options):
    path = save(text_to_unit(), tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"no dictionary of its 7 phones; .*--phone-dictionary"):
        convert(path, tmp_path / "y.nemo")
    with pytest.raises(InputError, match=r"no dictionary of its 9 units; .*--unit-dictionary"):
        convert(path, tmp_path / "y.nemo", Options(phone_dictionary=options.phone_dictionary))


def test_names_go_both_ways(tmp_path):
    cfg = tiny_text_to_unit_config(tmp_path, speakers=["a", "b"], speaker_dim=4)
    for name in TextToUnitModel(cfg).state_dict():
        assert our_name(released_name(name)) == name
    assert our_name("encoder.var_adaptor.duration_predictor.conv9.0.weight") is None


def test_command(tmp_path, options, capsys):
    path = save(text_to_unit(), tmp_path / "x.pt")
    given = ["--phone-dictionary", options.phone_dictionary, "--unit-dictionary", options.unit_dictionary]
    assert run_example("convert_checkpoint.py", "--input", path, "--list", *given) == 0
    listed = capsys.readouterr().out
    assert "text-to-unit model, " in listed
    assert "becomes: TextToUnitModel, 3 + 1 layers of 12, 3 heads, 7 phones, 9 units" in listed
    assert "encoder.out_proj.bias (9,) float32 -> unit_proj.bias" in listed
    assert "left: of a pitch that is not used" in listed

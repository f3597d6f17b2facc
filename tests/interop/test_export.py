"""Back to the released code's form: the golden checkpoints, converted and written back, are what they were."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.encoder_config import parse_layers
from nemo_speechlm.interop.export import export_fairseq
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.models import SpeechLMEncoderModel
from nemo_speechlm.testing import tiny_architecture
from tests.golden import GOLDEN, needs_golden
from tests.interop.checkpoints import LETTERS, fine_tuned, write_dictionary


@needs_golden
@pytest.mark.parametrize("folder", ["speechlm_p_tiny", "speechlm_large_tiny"])
def test_round_trip(tmp_path, folder):
    convert(GOLDEN / folder / "checkpoint_real_structure.pt", tmp_path / "x.nemo")
    export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    ours = torch.load(tmp_path / "y.pt", weights_only=True)
    theirs = torch.load(GOLDEN / folder / "checkpoint.pt", weights_only=True)["model"]
    dropped = json.loads((GOLDEN / folder / "cleaned_keys.json").read_text())["dropped_in_cleaned_checkpoint"]
    assert ours["model"].keys() == theirs.keys() - set(dropped)
    unused = "norm_k" if folder == "speechlm_p_tiny" else "none"
    for name, value in ours["model"].items():
        assert value.shape == theirs[name].shape
        assert torch.equal(value, theirs[name]) or unused in name, name
    released = json.loads((GOLDEN / folder / "cfg.json").read_text())
    assert ours["cfg"]["task"]["normalize"] == released["task"]["normalize"]
    _compare(ours["cfg"]["model"], released["model"])
    convert(tmp_path / "y.pt", tmp_path / "z.nemo")
    again = SpeechLMEncoderModel.restore_from(str(tmp_path / "z.nemo"), map_location="cpu").encoder.state_dict()
    plan = convert(GOLDEN / folder / "checkpoint_real_structure.pt", tmp_path / "x.nemo", overwrite=True)
    assert all(torch.equal(value, plan.weights[f"encoder.{name}"]) for name, value in again.items())


def _compare(ours, theirs):
    for name, value in ours.items():
        if isinstance(value, dict):
            _compare(value, theirs[name])
        elif name == "conv_feature_layers":
            assert parse_layers(value) == parse_layers(theirs[name])
        else:
            assert value == theirs[name], name


def test_fine_tuned_models_too(tmp_path):
    content = fine_tuned()
    tables = [name for name in content["model"] if name.endswith("pe_k.weight")]
    content["model"] |= {name: torch.randn(320, 4) for name in tables}
    torch.save(content, tmp_path / "x.pt")
    options = Options(label_dictionary=write_dictionary(tmp_path / "dict.ltr.txt", LETTERS[:-1]))
    convert(tmp_path / "x.pt", tmp_path / "x.nemo", options)
    export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    written = torch.load(tmp_path / "y.pt", weights_only=True)["model"]
    prefix = "w2v_encoder.w2v_model."
    for name in ("mask_emb", "encoder.layers.2.fc1.weight", "unit_encoder.layers.0.self_attn_layer_norm.bias"):
        assert torch.equal(written[name], content["model"][prefix + name])


@needs_golden
def test_output_that_cannot_be_written(tmp_path):
    convert(GOLDEN / "speechlm_p_tiny/checkpoint_real_structure.pt", tmp_path / "x.nemo")
    for output in (tmp_path / "x.nemo" / "y.pt", tmp_path / f"{'y' * 250}.pt"):
        with pytest.raises(InputError, match=r"y\.pt: cannot be written: "):
            export_fairseq(tmp_path / "x.nemo", output)
    assert [path.name for path in tmp_path.iterdir()] == ["x.nemo"]


def test_what_the_released_code_cannot_be(tmp_path):
    SpeechLMEncoderModel(OmegaConf.create(tiny_architecture())).save_to(str(tmp_path / "x.nemo"))
    with pytest.raises(InputError, match=r"max_distance of its speech transformer is 16, the released code's 160"):
        export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    with pytest.raises(InputError, match=r"must end in \.pt"):
        export_fairseq(tmp_path / "x.nemo", tmp_path / "y.nemo")
    assert [path.name for path in tmp_path.iterdir()] == ["x.nemo"]

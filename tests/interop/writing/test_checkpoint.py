"""Back to the released code's form: the golden checkpoints, converted and written back, are what they were."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.convert import convert
from nemo_speechlm.interop.parts.encoder_config import parse_layers
from nemo_speechlm.interop.plan import Options
from nemo_speechlm.interop.reading.dictionaries import read_dictionary
from nemo_speechlm.interop.writing.checkpoint import export_fairseq
from nemo_speechlm.interop.writing.ctc import ctc_symbols
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMEncoderModel
from nemo_speechlm.models.common.pretrained import PretrainedFile
from nemo_speechlm.testing.configs import tiny_architecture
from tests.golden import GOLDEN, needs_golden
from tests.interop.checkpoints import LETTERS, fine_tuned, save, write_dictionary


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


HEADS = ("label_embs_list", "unit_embed_tokens", "unit_encoder.embed_tokens", "final_proj_list")
"""What only pretraining uses; fine-tuned models do not keep it."""
PREFIX = "w2v_encoder.w2v_model."


def restored(path, cls=SpeechLMCTCModel):
    return cls.restore_from(str(path), map_location="cpu").eval()


def log_probs(model, *samples):
    audio = torch.randn(len(samples), max(samples), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_signal=audio, input_signal_length=torch.tensor(samples))[0]


@needs_golden
@pytest.mark.parametrize("with_units", [False, True])
def test_golden_fine_tuned_round_trip(tmp_path, with_units):
    folder = GOLDEN / "speechlm_ctc_tiny"
    symbols = json.loads((folder / "dictionaries.json").read_text())["target_dictionary"]
    convert(
        folder / "checkpoint.pt",
        tmp_path / "x.nemo",
        Options(label_dictionary=write_dictionary(tmp_path / "dict.txt", symbols[:-1])),
    )
    units = json.loads((GOLDEN / "speechlm_p_tiny/dictionaries.json").read_text())["text_src_dictionary"]
    unit_dictionary = write_dictionary(tmp_path / "units.txt", units[:-1]) if with_units else None
    export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt", unit_dictionary=unit_dictionary)
    assert read_dictionary(tmp_path / "y.dict.ltr.txt", len(symbols)) == symbols
    ours = torch.load(tmp_path / "y.pt", weights_only=True)
    theirs = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert ours.keys() <= theirs.keys()
    tables = {name for name in theirs["model"] if name.removeprefix(PREFIX).startswith(HEADS[:3])}
    assert ours["model"].keys() == theirs["model"].keys() - (set() if with_units else tables)
    for name, value in ours["model"].items():
        expected = theirs["model"][name]
        if name.removeprefix(PREFIX).startswith(HEADS):
            assert len(value) in (len(expected), 256), name  # nothing tells how wide the classifiers were
            continue
        assert value.shape == expected.shape, name
        assert torch.equal(value, expected) or "norm_k" in name, name
    for part in ("model", "task"):
        for name, value in ours["cfg"][part].items():
            assert value == theirs["cfg"][part][name] or name in ("w2v_path", "w2v_args"), name
    again = Options(label_dictionary=tmp_path / "y.dict.ltr.txt")
    convert(tmp_path / "y.pt", tmp_path / "z.nemo", again)
    first, second = restored(tmp_path / "x.nemo"), restored(tmp_path / "z.nemo")
    found = second.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in first.state_dict().items())
    assert torch.equal(log_probs(first, 8000, 5000), log_probs(second, 8000, 5000))


@pytest.mark.parametrize("pre_norm", [False, True])
def test_fine_tuned_there_and_back_and_there(tmp_path, pre_norm):
    content = fine_tuned(pre_norm=pre_norm)
    content["cfg"]["model"]["mask_length"] = 10  # what is not said is said on the way back
    tables = [name for name in content["model"] if name.endswith("pe_k.weight")]
    content["model"] |= {name: torch.randn(320, 4) for name in tables}  # other distances cannot go back
    options = Options(label_dictionary=write_dictionary(tmp_path / "dict.ltr.txt", LETTERS[:-1]))
    convert(save(content, tmp_path / "x.pt"), tmp_path / "x.nemo", options)
    export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    convert(tmp_path / "y.pt", tmp_path / "y.nemo", Options(label_dictionary=tmp_path / "y.dict.ltr.txt"))
    first, second = restored(tmp_path / "x.nemo"), restored(tmp_path / "y.nemo")
    assert first.state_dict().keys() == second.state_dict().keys()
    found = second.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in first.state_dict().items())
    for part in ("encoder", "decoder", "labels", "freeze_front_end", "preprocessor"):
        assert first.cfg[part] == second.cfg[part], part
    (tmp_path / "y.pt").unlink()
    with pytest.raises(InputError, match=r"y\.dict\.ltr\.txt: exists already; .* --overwrite"):
        export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    export_fairseq(tmp_path / "x.nemo", tmp_path / "encoder.pt", encoder_only=True)
    written = torch.load(tmp_path / "encoder.pt", weights_only=True)["model"]
    assert not any("ctc" in name or name.startswith(("w2v_encoder", "proj")) for name in written)
    for name in ("mask_emb", "encoder.layers.2.fc1.weight", "unit_encoder.layers.0.self_attn_layer_norm.bias"):
        assert torch.equal(written[name], content["model"][PREFIX + name])


def of_our_own(path, labels, **decoder):
    """A CTC model that was never anybody else's, with the released code's distances."""
    cfg = tiny_architecture()
    for name in ("speech", "shared"):
        cfg["encoder"][f"{name}_transformer"]["max_distance"] = 160
    cfg["decoder"] = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead", "feat_in": 32, "num_classes": -1, **decoder}
    model = SpeechLMCTCModel(OmegaConf.create(cfg | {"labels": labels})).eval()
    model.save_to(str(path))
    return model


def test_labels_without_special_symbols(tmp_path):
    labels = [" ", "b", "a", "ü"]
    model = of_our_own(tmp_path / "x.nemo", labels)
    export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    assert (tmp_path / "y.dict.ltr.txt").read_text(encoding="utf-8") == "| 1\nb 1\na 1\nü 1\n<mask> 1\n"
    options = Options(label_dictionary=tmp_path / "y.dict.ltr.txt")
    convert(tmp_path / "y.pt", tmp_path / "z.nemo", options)
    again = restored(tmp_path / "z.nemo")
    assert list(again.cfg.labels) == ["<pad>", "</s>", "<unk>", *labels, "<mask>"]
    theirs = log_probs(again, 8000)
    own = [again.cfg.labels.index(label) for label in labels]
    torch.testing.assert_close(theirs[..., [*own, -1]], log_probs(model, 8000))
    others = [row for row in range(theirs.shape[2] - 1) if row not in own]
    assert theirs[..., others].max() < -1000


def test_ctc_that_the_released_code_cannot_be(tmp_path):
    plain = "nemo.collections.asr.modules.ConvASRDecoder"
    of_our_own(tmp_path / "plain.nemo", [" ", "a"], _target_=plain)
    with pytest.raises(InputError, match=r"plain\.nemo: has a nemo\..*ConvASRDecoder; .* \(--encoder-only writes"):
        export_fairseq(tmp_path / "plain.nemo", tmp_path / "y.pt")
    of_our_own(tmp_path / "bar.nemo", [" ", "|"])
    with pytest.raises(InputError, match=r"bar\.nemo: has a label '\|'; .* is the space \(--encoder-only"):
        export_fairseq(tmp_path / "bar.nemo", tmp_path / "y.pt")
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    cfg = OmegaConf.create({"target": "nemo_speechlm.models.recognition.ctc.SpeechLMCTCModelBPE", "decoder": head})
    with pytest.raises(InputError, match=r"tokens\.nemo: writes tokens; .* spells with characters only"):
        ctc_symbols(PretrainedFile(tmp_path / "tokens.nemo", cfg, {}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bar.nemo", "plain.nemo"]
    export_fairseq(tmp_path / "plain.nemo", tmp_path / "y.pt", encoder_only=True)


def test_an_encoder_that_swaps_frames_for_units_is_not_written_as_one_that_does_not(tmp_path):
    cfg = tiny_architecture()
    cfg["encoder"] |= {"_target_": "nemo_speechlm.modules.SwappingEncoder", "num_units": 7}
    for name in ("speech", "shared"):
        cfg["encoder"][f"{name}_transformer"]["max_distance"] = 160
    cfg["decoder"] = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead", "feat_in": 32, "num_classes": -1}
    SpeechLMCTCModel(OmegaConf.create(cfg | {"labels": [" ", "a"]})).save_to(str(tmp_path / "x.nemo"))
    with pytest.raises(InputError, match=r"x\.nemo: has a .*SwappingEncoder; the released code has a SpeechLMEncoder"):
        export_fairseq(tmp_path / "x.nemo", tmp_path / "y.pt")
    assert not (tmp_path / "y.pt").exists()


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

"""ONNX and TorchScript files against the models that they come from."""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.inference.export import compare, export
from nemo_speechlm.models import SpeechLMCTCModel
from nemo_speechlm.models.recognition.transducer import build_transducer
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_labels
from tests.functional.commands import run_example

HEAD = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}


def architecture(kind):
    cfg = tiny_architecture()
    transformers = [cfg["encoder"][f"{half}_transformer"] for half in ("speech", "shared")]
    if kind == "large":  # pre-norm, layer norms in the convolutions
        cfg["encoder"]["front_end"]["norm"] = "layer"
        for transformer in transformers:
            transformer["pre_norm"] = True
    if kind == "mel":
        cfg["preprocessor"] = {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "features": 40,
        }
        cfg["encoder"]["front_end"] = {
            "_target_": "nemo_speechlm.modules.MelFrontEnd",
            "subsampling_factor": 4,
            "output_dim": 32,
            "subsampling": {
                "_target_": "nemo.collections.asr.parts.submodules.subsampling.ConvSubsampling",
                "subsampling": "dw_striding",
                "subsampling_factor": 4,
                "feat_in": 40,
                "feat_out": 32,
                "conv_channels": 16,
                "activation": {"_target_": "torch.nn.ReLU"},
            },
        }
    if kind == "conformer":
        cfg["encoder"]["speech_transformer"] = tiny_conformer()
    if kind == "even":
        transformers[0]["conv_kernel"] = 8
        transformers[1]["max_distance"] = 0
    return cfg


def tiny_conformer(**options):
    return {
        "_target_": "nemo_speechlm.modules.MaskedConformer", "feat_in": 32, "d_model": 32, "n_layers": 2, "n_heads": 4,
        "subsampling_factor": 1, "self_attention_model": "rel_pos", "conv_kernel_size": 5, "xscaling": True,
        "conv_norm_type": "layer_norm", "use_pytorch_sdpa": True, "sync_max_audio_length": False, **options,
    }  # fmt: skip


def ctc(kind, **changes):
    torch.manual_seed(0)
    cfg = {**architecture(kind), "labels": tiny_labels(), "decoder": HEAD, **changes}
    return SpeechLMCTCModel(OmegaConf.create(cfg)).eval()


@pytest.mark.parametrize("kind", ["base", "large", "mel", "even", "conformer"])
def test_graph_is_the_model(kind):
    model = ctc(kind)
    signal, length = model.encoder.input_example(3)
    with torch.no_grad():
        expected, frames = model.encoder(audio_signal=signal, length=length)
        found, found_frames = model.encoder.forward_for_export(signal, length)
        assert torch.equal(frames, found_frames)
        for row, n in enumerate(frames.tolist()):
            torch.testing.assert_close(found[row, :, :n], expected[row, :, :n], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.decoder.forward_for_export(expected), model.decoder(encoder_output=expected))


@pytest.mark.parametrize(
    ("kind", "part"), [("base", "model"), ("large", "encoder"), ("mel", "model"), ("conformer", "model")]
)
def test_onnx(tmp_path, kind, part):
    pytest.importorskip("onnxruntime")
    import onnx

    model = ctc(kind)
    (path,) = export(model, tmp_path / "x.onnx", part)
    assert compare(ctc(kind), path, part, (5, 33, 180)) < 1e-4
    facts = {p.key: json.loads(p.value) for p in onnx.load(str(path)).metadata_props}
    assert facts["labels"] == tiny_labels()
    assert facts["blank"] == len(tiny_labels())
    assert facts["input"] == ("mel features" if kind == "mel" else "waveform")
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    with pytest.raises(InputError, match="exists already"):
        export(model, path, part)


def test_torchscript(tmp_path):
    (path,) = export(ctc("base"), tmp_path / "x.ts")
    assert compare(ctc("base"), path, "model", (5, 90)) < 1e-4


def test_a_difference_is_seen(tmp_path):
    (path,) = export(ctc("base"), tmp_path / "x.ts")
    other = ctc("base")
    with torch.no_grad():
        other.decoder.linear.bias += torch.linspace(0, 0.01, len(other.decoder.linear.bias))
    assert compare(other, path, "model", (5,)) > 1e-3


def test_a_file_that_makes_no_numbers_differs(tmp_path, capsys, monkeypatch):
    class Broken(torch.nn.Module):
        def forward(self, audio_signal, length):
            return torch.full_like(model(input_signal=audio_signal[:, 0], input_signal_length=length)[0], torch.nan)

    model = ctc("base")
    monkeypatch.setattr(torch.jit, "load", lambda path: Broken())
    assert np.isnan(compare(model, "x.ts", "model", (5,)))
    model.save_to(str(tmp_path / "ctc.nemo"))
    (tmp_path / "ctc.ts").write_text("a good one")
    arguments = [f"model={tmp_path / 'ctc.nemo'}", f"output={tmp_path / 'ctc.ts'}", "overwrite=true"]
    assert run_example("export.py", *arguments) == 1
    assert "ctc.ts differs from the model by up to nan, allowed is 0.0001; nothing is" in capsys.readouterr().err
    assert (tmp_path / "ctc.ts").read_text() == "a good one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ctc.nemo", "ctc.ts"]


def test_a_transducer_makes_two_files(tmp_path):
    pytest.importorskip("onnxruntime")
    hidden = {"pred_hidden": 16, "joint_hidden": 16}
    cfg = {
        **architecture("base"),
        "labels": tiny_labels(),
        "model_defaults": {**hidden},
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 16, "pred_rnn_layers": 1},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "fuse_loss_wer": False,
            "jointnet": {"joint_hidden": 16, "activation": "relu", "dropout": 0.0},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 5}},
    }
    model = build_transducer(OmegaConf.create(cfg)).eval()
    paths = export(model, tmp_path / "x.onnx")
    assert [path.name for path in paths] == ["encoder-x.onnx", "decoder_joint-x.onnx"]
    assert compare(model, paths[0], "encoder", (5, 40)) < 1e-4


def test_what_cannot_be_exported(tmp_path):
    model = ctc("base")
    with pytest.raises(InputError, match=r"ends in \.onnx or \.ts"):
        export(model, tmp_path / "x.pt")
    with pytest.raises(SpeechLMError, match="expected model or encoder"):
        export(model, tmp_path / "x.onnx", "decoder")
    windowed = ctc("conformer")
    windowed.encoder.speech_transformer.att_context_size = [8, 8]
    with pytest.raises(SpeechLMError, match=r"att_context_size is \[8, 8\] cannot be exported; expected \[-1, -1\]"):
        export(windowed, tmp_path / "x.ts")
    model.encoder.front_end.released_padding = True
    with pytest.raises(SpeechLMError, match="--padding exact"):
        export(model, tmp_path / "x.ts")
    assert not list(tmp_path.iterdir())


def test_command(capsys, tmp_path):
    ctc("base").save_to(str(tmp_path / "ctc.nemo"))
    arguments = [f"model={tmp_path / 'ctc.nemo'}", f"output={tmp_path / 'out' / 'ctc.ts'}"]
    assert run_example("export.py", *arguments) == 0
    assert "differs from the model by" in capsys.readouterr().out
    assert run_example("export.py", *arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert np.isfinite(compare(ctc("base"), tmp_path / "out" / "ctc.ts", "model", (9,)))

"""What follows pretraining works on a SLAM encoder: fine-tuning, features, export."""

import pytest
import torch

from nemo_speechlm.inference.export import compare, export
from nemo_speechlm.models.common.pretrained import load_encoder, read_pretrained
from nemo_speechlm.models.encoder import SpeechLMEncoderModel


@pytest.fixture(scope="module")
def pretrained(build, tmp_path_factory):
    path = tmp_path_factory.mktemp("pretrained") / "slam.nemo"
    build().save_to(str(path))
    return path


def test_heads_of_pretraining_are_left_behind(pretrained, build):
    source = read_pretrained(pretrained)
    assert {"w2v_bert", "text_embedding", "stm_head"} <= source.left_behind
    encoder = SpeechLMEncoderModel(source.cfg)
    load_encoder(encoder, source)
    for name, weight in build().encoder.state_dict().items():
        assert torch.equal(encoder.encoder.state_dict()[name], weight), name


@pytest.mark.parametrize("suffix", [".ts", ".onnx"])
def test_encoder_as_a_graph(build, tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    model = build().eval()
    (path,) = export(model, tmp_path / f"encoder{suffix}", part="encoder")
    assert compare(model, path, "encoder") < 1e-4

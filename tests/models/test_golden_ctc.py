"""Encoder and CTC head together against the released fine-tuned model: outputs, loss and gradients."""

import pytest
import torch
from torch.nn import functional as F

from nemo_speechlm.modules import SpeechLMCTCHead
from tests.golden import copy_into, load, needs_golden, relative_error, released_encoder, rename

pytestmark = needs_golden
PREFIX = "w2v_encoder.w2v_model."


@pytest.fixture(scope="module")
def outputs():
    return load("speechlm_ctc_tiny/outputs.pt")


@pytest.fixture
def model():
    """Our encoder and head with the parameters of the fine-tuned checkpoint."""
    released = load("speechlm_ctc_tiny/checkpoint.pt")["model"]
    encoder, _ = released_encoder("speechlm_p_tiny")  # it was fine-tuned from this one
    own = {key.removeprefix(PREFIX): value for key, value in released.items() if key.startswith(PREFIX)}
    encoder.load_state_dict({ours: value for key, value in own.items() if (ours := rename(key, pre_norm=False))})
    encoder.front_end.requires_grad_(False)
    head = SpeechLMCTCHead(feat_in=48, num_classes=32).eval()
    names = {"conv__weight": "1.weight", "norm__weight": "3.2.weight", "norm__bias": "3.2.bias"}
    copy_into(head, "w2v_encoder.proj.", released, **names, linear__weight="5.weight", linear__bias="5.bias")
    return encoder, head


def forward(model, waveforms, lengths):
    encoder, head = model
    encoded, frames = encoder(audio_signal=waveforms.unsqueeze(1), length=lengths)
    return head(encoder_output=encoded), frames


@torch.no_grad()
def test_log_probabilities(model, outputs):
    waveforms, lengths = outputs["source"], (~outputs["wave_padding_mask"]).sum(1)
    ours, frames = forward(model, waveforms, lengths)
    assert torch.equal(frames, outputs["input_lengths"])
    theirs = outputs["lprobs"].transpose(0, 1)
    for row, length in enumerate(frames):
        assert relative_error(ours[row, :length], theirs[row, :length]) < 1e-5
    alone, _ = forward(model, waveforms[1:, : lengths[1]], lengths[1:])
    assert relative_error(alone, outputs["single1_lprobs"].transpose(0, 1)[:, :-1]) < 1e-5


def test_loss_and_gradients(model, outputs):
    encoder, head = model
    lengths = (~outputs["wave_padding_mask"]).sum(1)
    log_probs, frames = forward(model, outputs["source"], lengths)
    loss = F.ctc_loss(
        log_probs.transpose(0, 1), outputs["target"], frames, outputs["target_lengths"], blank=0, reduction="sum"
    )
    torch.testing.assert_close(loss, torch.as_tensor(outputs["ctc_loss_sum"]))
    loss.backward()
    layer = PREFIX + "encoder.layers.0.fc1.weight", PREFIX + "unit_encoder.layers.0.self_attn.k_proj.weight"
    pairs = {
        PREFIX + "unit_encoder_ctc_head.1.weight": head.conv.weight,
        PREFIX + "unit_encoder_ctc_head.5.bias": head.linear.bias,
        layer[0]: encoder.speech_transformer.layers[0].fc1.weight,
        layer[1]: dict(encoder.named_parameters())[rename(layer[1].removeprefix(PREFIX), pre_norm=False)],
        PREFIX + "post_extract_proj.weight": encoder.feature_proj.weight,
    }
    for name, parameter in pairs.items():
        assert relative_error(parameter.grad, outputs["grad." + name]) < 1e-4, name
    assert encoder.front_end.convs[0].weight.grad is None

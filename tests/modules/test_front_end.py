import pytest
import torch
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling

from nemo_speechlm.modules import ConvFrontEnd, MelFrontEnd, WaveformPreprocessor
from nemo_speechlm.modules.preprocessing import normalize_waveform

LAYERS = [(16, 10, 5), (16, 3, 2), (16, 2, 2)]


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_an_utterance_is_the_same_alone_and_in_a_batch(norm):
    torch.manual_seed(0)
    front_end = ConvFrontEnd(LAYERS, norm=norm)
    short, long = torch.randn(700), torch.randn(1500)
    batch = torch.zeros(2, 1, 1500)
    batch[0, 0, :700], batch[1, 0] = short, long
    features, lengths = front_end(batch, torch.tensor([700, 1500]))
    alone, length = front_end(short[None, None], torch.tensor([700]))
    assert lengths[0] == length[0] == alone.shape[1]
    assert torch.allclose(features[0, : length[0]], alone[0], atol=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_padding_of_a_batch_of_one_is_left_out(mixed):
    torch.manual_seed(0)
    front_end = ConvFrontEnd(LAYERS)
    audio = torch.zeros(1, 1, 1500)
    audio[:, :, :700] = torch.randn(700)
    assert front_end._by_kernels(audio)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        padded, frames = front_end(audio, torch.tensor([700]))
        alone, _ = front_end(audio[:, :, :700], torch.tensor([700]))
    assert frames.tolist() == [alone.shape[1]]
    assert torch.allclose(padded[:, : frames[0]], alone, atol=2e-2 if mixed else 1e-5)


def test_released_group_norm_counts_padding():
    torch.manual_seed(0)
    ours, theirs = ConvFrontEnd(LAYERS), ConvFrontEnd(LAYERS, released_padding=True)
    theirs.load_state_dict(ours.state_dict())
    batch, lengths = torch.randn(2, 1, 1500), torch.tensor([700, 1500])
    batch[0, :, 700:] = 0
    a, frames = ours(batch, lengths)
    b, released_frames = theirs(batch, lengths)
    assert torch.allclose(a[1], b[1], atol=1e-5)
    assert not torch.allclose(a[0, : frames[0]], b[0, : frames[0]], atol=0.1)
    assert 0 <= released_frames[0] - frames[0] <= 1


@pytest.mark.parametrize("samples", [400, 401, 719, 720, 16000])
def test_frames_of_the_full_stack(samples):
    front_end = ConvFrontEnd([(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2])
    assert front_end.subsampling == 320
    features, lengths = front_end(torch.randn(1, 1, samples), torch.tensor([samples]))
    assert lengths.tolist() == [features.shape[1]] == [(samples - 400) // 320 + 1]


def test_gradient_scale():
    gradients = []
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        front_end = ConvFrontEnd(LAYERS, gradient_scale=scale)
        features, _ = front_end(torch.ones(1, 1, 500), torch.tensor([500]))
        features.square().sum().backward()
        gradients.append(front_end.convs[1].weight.grad)
    assert torch.allclose(gradients[0] * 0.1, gradients[1])


def test_mel_subsampling():
    module = ConvSubsampling("dw_striding", 4, feat_in=20, feat_out=12, conv_channels=8)
    front_end = MelFrontEnd(module, subsampling_factor=4, output_dim=12)
    features, lengths = front_end(torch.randn(2, 20, 101), torch.tensor([101, 50]))
    assert features.shape == (2, 26, 12)
    assert lengths.tolist() == [26, 13]


def test_normalization_leaves_padding_out():
    torch.manual_seed(0)
    audio = torch.randn(2, 100) * 3 + 1
    audio[0, 60:] = 0
    normalized = normalize_waveform(audio, torch.tensor([60, 100]))
    assert torch.allclose(normalized[0, :60].mean(), torch.tensor(0.0), atol=1e-6)
    assert torch.allclose(normalized[0, :60].std(correction=0), torch.tensor(1.0), atol=1e-4)
    assert not normalized[0, 60:].any()
    signal, lengths = WaveformPreprocessor(normalize=True)(input_signal=audio, length=torch.tensor([60, 100]))
    assert torch.equal(signal[:, 0], normalized)
    assert lengths.tolist() == [60, 100]

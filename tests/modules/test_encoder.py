import pytest
import torch
from nemo.collections.asr.modules import ConformerEncoder

from nemo_speechlm.modules import ConvFrontEnd, RelativeTransformer, SpeechLMEncoder

LAYERS = [(16, 10, 5), (16, 4, 4), (16, 4, 4)]


def transformer(position: str | None, pre_norm: bool = True) -> RelativeTransformer:
    return RelativeTransformer(2, 24, 2, 48, position=position, pre_norm=pre_norm, conv_kernel=9, conv_groups=4)


def conformer() -> ConformerEncoder:
    return ConformerEncoder(
        feat_in=24, n_layers=2, d_model=24, n_heads=2, subsampling_factor=1, conv_kernel_size=5, ff_expansion_factor=2
    )


def encoder(speech, shared, **options) -> SpeechLMEncoder:
    return SpeechLMEncoder(ConvFrontEnd(LAYERS, norm="layer"), speech, shared, d_model=24, **options)


@pytest.fixture(params=["post-norm", "pre-norm", "conformer", "mixed"])
def made(request) -> SpeechLMEncoder:
    torch.manual_seed(0)
    kinds = {
        "post-norm": lambda: encoder(transformer("conv", False), transformer("learned", False)),
        "pre-norm": lambda: encoder(transformer("conv"), transformer("learned")),
        "conformer": lambda: encoder(conformer(), conformer()),
        "mixed": lambda: encoder(conformer(), transformer("learned")),
    }
    return kinds[request.param]()


def test_nemo_interface_and_batch_independence(made):
    made.eval()
    lengths = torch.tensor([4000, 2500])
    audio = torch.randn(2, 1, 4000)
    audio[1, :, 2500:] = 0
    with torch.no_grad():
        encoded, frames = made(audio_signal=audio, length=lengths)
        alone, own_frames = made(audio_signal=audio[1:, :, :2500], length=lengths[1:])
        layers, _ = made.layer_outputs(audio, lengths)
    assert encoded.shape == (2, 24, frames[0])
    assert frames[1] == own_frames[0] == alone.shape[2]
    assert torch.allclose(encoded[1, :, : frames[1]], alone[0], atol=1e-4)
    assert len(layers) == 4
    assert torch.equal(layers[-1].transpose(1, 2), encoded)


def test_padding_is_not_read(made):
    made.eval()
    audio = torch.randn(1, 1, 4000)
    with torch.no_grad():
        a, frames = made(audio_signal=audio, length=torch.tensor([2500]))
        audio[..., 3000:] = 7.0
        b, _ = made(audio_signal=audio, length=torch.tensor([2500]))
    assert torch.allclose(a[..., : frames[0]], b[..., : frames[0]], atol=1e-5)


def test_masks_while_training_only():
    torch.manual_seed(0)
    made = encoder(
        transformer("conv"), transformer("learned"),
        dropout_input=0.0, mask_prob=0.5, mask_length=3, mask_channel_prob=0.3, mask_channel_length=4,
    )  # fmt: skip
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    audio, length = torch.randn(2, 1, 4000), torch.tensor([4000, 3000])
    first, _ = made(audio_signal=audio, length=length)
    second, _ = made(audio_signal=audio, length=length)
    assert not torch.equal(first, second)
    first.sum().backward()
    assert made.mask_emb.grad.abs().sum() > 0
    made.eval()
    assert torch.equal(*(made(audio_signal=audio, length=length)[0] for _ in range(2)))


def test_an_empty_utterance_is_no_nan(made):
    made.eval()
    with torch.no_grad():
        encoded, frames = made(audio_signal=torch.randn(2, 1, 4000), length=torch.tensor([4000, 0]))
    assert frames[1] == 0
    assert encoded[0].isfinite().all()


def test_too_long_for_the_learned_positions():
    shared = RelativeTransformer(1, 24, 2, 48, position="learned", max_frames=10)
    with pytest.raises(ValueError, match="11 frames"):
        shared(torch.zeros(1, 11, 24))

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from nemo.collections.asr.modules import ConformerEncoder
from omegaconf import OmegaConf

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.inference.features import extraction as features
from nemo_speechlm.models import SpeechLMEncoderModel
from nemo_speechlm.modules import ConvFrontEnd, RelativeTransformer, SpeechLMEncoder
from nemo_speechlm.testing.configs import tiny_architecture

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


@pytest.mark.parametrize(("mel", "rate"), [(False, 50.0), (True, 25.0)])
def test_encoder_says_its_facts(mel, rate):
    """Samples or mel frames a second are told once; a mel model's feature shards once held an utterance each."""
    cfg = OmegaConf.create(tiny_architecture())
    if mel:
        mels = "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor"
        cfg.preprocessor = {"_target_": mels, "sample_rate": 16000, "window_stride": 0.01, "features": 8}
        module = "nemo.collections.asr.parts.submodules.subsampling.StackingSubsampling"
        stacking = {"_target_": module, "subsampling_factor": 4, "feat_in": 8, "feat_out": 16}
        cfg.encoder.front_end = {
            "_target_": "nemo_speechlm.modules.MelFrontEnd",
            "subsampling": stacking,
            "subsampling_factor": 4,
            "output_dim": 16,
        }
    model = SpeechLMEncoderModel(cfg)
    assert model.encoder.frame_rate == pytest.approx(rate)
    assert model.encoder.num_layers == 2
    utterances = [SimpleNamespace(duration=10.0)] * 500
    options = SimpleNamespace(dtype="float32")
    assert len(set(features._shard_files(Path("x"), model, utterances, options, 2))) == 1


def test_encoder_without_an_input_rate_says_so():
    encoder = SpeechLMEncoderModel(OmegaConf.create(tiny_architecture())).encoder
    encoder.input_rate = None
    with pytest.raises(SpeechLMError, match="rate of its input"):
        encoder.frame_rate  # noqa: B018


def test_weights_begin_as_released_where_the_recipe_says_so():
    torch.manual_seed(0)
    sizes = {"n_layers": 2, "d_model": 64, "n_heads": 2, "d_ff": 128, "conv_kernel": 9, "conv_groups": 4}
    parts = RelativeTransformer(**sizes, position="conv", init_std=0.02).state_dict()
    drawn = [name for name, x in parts.items() if x.ndim == 2]
    assert len(drawn) == 1 + 2 * 6  # positions; queries, keys, values, output, feed-forward
    for name in drawn:
        assert parts[name].std().item() == pytest.approx(0.02, rel=0.1), name
    biases = [name for name in parts if name.startswith("layers.") and name.endswith(".bias")]
    assert all(not parts[name].any() for name in biases)
    ours = RelativeTransformer(**sizes, position="conv").state_dict()
    assert ours["relative_positions.table.weight"].std().item() == pytest.approx(1.0, rel=0.1)


def test_the_penalty_is_of_the_utterances_own_frames(made):
    made.eval()
    lengths = torch.tensor([4000, 2500])
    audio = torch.randn(2, 1, 4000)
    audio[1, :, 2500:] = 0
    with torch.no_grad():
        together = made.embed_speech(audio, lengths)
        alone = made.embed_speech(audio[1:, :, :2500], lengths[1:])
    frames = int(alone.lengths[0])
    torch.testing.assert_close(together.penalty[1, :frames], alone.penalty[0, :frames], rtol=1e-4, atol=1e-5)
    assert not together.penalty[1, frames:].any()

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.data.pretraining.batch import SpeechBatch
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.models.common.fine_tuning import take_architecture
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.slam import tiny_slam_architecture

SPEC_AUGMENT = {
    "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
    "freq_masks": 1,
    "freq_width": 10,
    "time_masks": 0,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


def masked_channels(model, batch):
    """Mel channels that are zero throughout in what reaches the encoder."""
    seen = []
    handle = model.encoder.front_end.register_forward_pre_hook(
        lambda _, arguments, keywords: seen.append([*arguments, *keywords.values()][0]), with_kwargs=True
    )
    model.forward_speech(batch)
    handle.remove()
    return (seen[0] == 0).all(2).sum(1).tolist()


def test_mel_features_are_masked_in_training_alone(corpus):
    model = SpeechLMModel(tiny_pretrain_config(corpus, **tiny_slam_architecture(), spec_augment=SPEC_AUGMENT))
    torch.manual_seed(0)
    audio = torch.randn(6, 16000)
    units = torch.zeros(6, 100, dtype=torch.long)
    batch = SpeechBatch(audio, torch.full((6,), 16000), units, torch.full((6,), 100), ids=tuple("abcdef"))
    model.train()
    masked = masked_channels(model, batch)
    assert max(masked) > 2
    assert max(masked) <= 10
    assert len(set(masked)) > 1
    model.eval()
    assert masked_channels(model, batch) == [0] * 6


def test_waveforms_have_no_channels_to_mask(corpus):
    with pytest.raises(SpeechLMError, match=r"model\.spec_augment masks mel features"):
        SpeechLMModel(tiny_pretrain_config(corpus, spec_augment=SPEC_AUGMENT))


def test_fine_tuning_from_a_model_of_waveforms_leaves_it_out(corpus, tmp_path):
    path = tmp_path / "waveforms.nemo"
    SpeechLMModel(tiny_pretrain_config(corpus)).save_to(str(path))
    cfg = OmegaConf.create({"init_from_pretrained": str(path), "spec_augment": SPEC_AUGMENT})
    take_architecture(cfg)
    assert cfg.spec_augment is None
    mels = tmp_path / "mels.nemo"
    SpeechLMModel(tiny_pretrain_config(corpus, **tiny_slam_architecture())).save_to(str(mels))
    cfg = OmegaConf.create({"init_from_pretrained": str(mels), "spec_augment": SPEC_AUGMENT})
    take_architecture(cfg)
    assert cfg.spec_augment == SPEC_AUGMENT

"""SpecAugment (arXiv 1904.08779) on what a preprocessor makes, in training."""

from nemo.core.classes import ModelPT
from torch import nn

from nemo_speechlm.errors import SpeechLMError


def spec_augmentation_of(model: ModelPT) -> nn.Module | None:
    """The module that ``cfg.spec_augment`` describes, None for none; it takes ``input_spec`` (B, F, T) and ``length``.

    Raises:
        SpeechLMError: where the preprocessor makes no mel features.
    """
    config = model.cfg.get("spec_augment")
    if config is None:
        return None
    if model.cfg.preprocessor.get("features") is None:
        raise SpeechLMError("model.spec_augment masks mel features, and this model reads waveforms; set it to null")
    return model.from_config_dict(config)

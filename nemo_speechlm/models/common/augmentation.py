"""SpecAugment (arXiv 1904.08779) on what a preprocessor makes, in training."""

from pathlib import Path

from nemo.core.classes import ModelPT
from nemo.utils import logging
from omegaconf import DictConfig
from torch import nn

from nemo_speechlm.errors import SpeechLMError


def spec_augmentation_of(model: ModelPT) -> nn.Module | None:
    """The module that ``cfg.spec_augment`` describes, None for none; it takes ``input_spec`` (B, F, T) and ``length``.

    Raises:
        SpeechLMError: where the preprocessor makes no mel features.
    """
    check_spec_augment(model.cfg)
    config = model.cfg.get("spec_augment")
    return None if config is None else model.from_config_dict(config)


def check_spec_augment(cfg: DictConfig) -> None:
    """Refuse SpecAugment where there are no mel features.

    Raises:
        SpeechLMError: if it is there.
    """
    if cfg.get("spec_augment") is not None and not _makes_mel_features(cfg):
        raise SpeechLMError("model.spec_augment masks mel features, and this model reads waveforms; set it to null")


def leave_out_spec_augment(cfg: DictConfig, source: str | Path) -> None:
    """Set a recipe's ``spec_augment`` to None, and say so, where the file that the model starts from reads waveforms.

    Args:
        cfg: of the model, with the file's preprocessor; it is changed.
        source: the file.
    """
    if cfg.get("spec_augment") is not None and not _makes_mel_features(cfg):
        logging.warning(f"{source} reads waveforms: model.spec_augment, which masks mel features, is left out")
        cfg.spec_augment = None


def _makes_mel_features(cfg: DictConfig) -> bool:
    return cfg.preprocessor.get("features") is not None

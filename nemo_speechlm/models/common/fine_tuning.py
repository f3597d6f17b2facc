"""What models fine-tuned from a SpeechLM encoder do with their configs."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from hydra.utils import get_class
from lightning.pytorch import Trainer
from nemo.utils.app_state import AppState
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.augmentation import check_spec_augment, leave_out_spec_augment
from nemo_speechlm.models.common.parts import Parts
from nemo_speechlm.models.common.pretrained import PretrainedFile, read_pretrained
from nemo_speechlm.modules.ctc_head import SpeechLMCTCHead


def take_architecture(cfg: DictConfig) -> PretrainedFile | None:
    """Put preprocessor and encoder into a config: those of ``init_from_pretrained``, with ``encoder_overrides``.

    Args:
        cfg: of a model; it is changed.

    Returns:
        the pretraining file, None where the config names none.

    Raises:
        SpeechLMError: if neither the config nor a file says what the encoder is, SpecAugment has no mel features, an
            override is for another kind of encoder, or weights of a head are wanted where weights are not.
        InputError: if the file cannot be read.
    """
    source = None
    with open_dict(cfg):
        if cfg.get("init_from_pretrained") is not None:
            source = read_pretrained(cfg.init_from_pretrained)
            cfg.preprocessor, cfg.encoder = source.cfg.preprocessor, source.cfg.encoder
            cfg.sample_rate = source.cfg.get("sample_rate", 16000)
            leave_out_spec_augment(cfg, source.path)
        for key in ("preprocessor", "encoder"):
            if cfg.get(key) is None:
                raise SpeechLMError(f"neither model.{key} nor model.init_from_pretrained is given to take it from")
        check_spec_augment(cfg)
        cfg.setdefault("sample_rate", 16000)
        overrides = cfg.get("encoder_overrides") or {}
        if source is not None:
            _check_overrides(cfg.encoder, overrides, source)
        cfg.encoder = OmegaConf.merge(cfg.encoder, overrides)
        if not cfg.get("pretrained_weights", True):
            _check_nothing_reused(cfg)
    return source


def _check_nothing_reused(cfg: DictConfig) -> None:
    for key in ("reuse_ctc_head", "reuse_decoder"):
        if cfg.get(key):
            raise SpeechLMError(
                f"model.pretrained_weights is false, and model.{key} is true: the model would begin with weights of "
                f"pretraining after all; set model.{key}=false"
            )


def _check_overrides(encoder: DictConfig, overrides: Mapping[str, Any], source: PretrainedFile) -> None:
    """Check that the parts of an encoder have the options that a recipe changes in them."""
    for part, values in overrides.items():
        target = OmegaConf.select(encoder, f"{part}._target_")
        if target is None or not isinstance(values, Mapping | DictConfig) or "_target_" in values:
            continue
        kind = get_class(target)
        for key in values:
            if key not in _options(kind):
                raise SpeechLMError(
                    f"model.encoder_overrides.{part}.{key}: the {part} of {source.path} is a {kind.__name__}, which "
                    f"has no such option; leave out what the recipe says of it by ~model.encoder_overrides.{part}"
                )


def _options(kind: type) -> set[str]:
    """The arguments of a class; where it hands on what it does not know, those of its bases too."""
    found: set[str] = set()
    for each in kind.__mro__:
        if "__init__" in vars(each):
            parameters = signature(each.__init__).parameters.values()  # type: ignore[misc]
            found |= {parameter.name for parameter in parameters}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break
    return found


def check_frozen(cfg: DictConfig, trainer: Trainer | None) -> None:
    """Check that a training does not begin with a front end that is random and stays so.

    Models that are restored, and runs that go on, are left as they are.

    Args:
        cfg: of the model that is made.
        trainer: None where there is nothing to be trained.

    Raises:
        SpeechLMError: if ``freeze_front_end`` is true, and no weights are loaded.
    """
    begins = trainer is not None and trainer.ckpt_path is None and not AppState().is_model_being_restored
    if not begins or not cfg.get("freeze_front_end", False):
        return
    if cfg.get("init_from_pretrained") is None:
        reason = "there is no model.init_from_pretrained"
    elif not cfg.get("pretrained_weights", True):
        reason = "model.pretrained_weights is false"
    else:
        return
    raise SpeechLMError(
        f"model.freeze_front_end is true, and {reason}: the front end would keep its random weights. Set it to false"
    )


def check_reusable(cfg: DictConfig, source: PretrainedFile | None, parts: Parts) -> None:
    """Check that ``reuse_ctc_head`` has a head to take and a place to put it.

    Args:
        cfg: of the model that is made.
        source: the file that it starts from.
        parts: of the model that is made.

    Raises:
        SpeechLMError: if it has not.
    """
    if source is None:
        raise SpeechLMError(
            "model.reuse_ctc_head needs model.init_from_pretrained to take the head from; without one, set it to false"
        )
    head = cfg.get(parts.ctc_head or "") or {}
    if not str(head.get("_target_", "")).endswith(SpeechLMCTCHead.__name__):
        raise SpeechLMError(
            f"model.reuse_ctc_head needs model.{parts.ctc_head}._target_ to be {SpeechLMCTCHead.__name__}"
        )


def become_independent(cfg: DictConfig, source: PretrainedFile | None) -> None:
    """Make a config describe a model of its own, which needs no pretraining file to be restored."""
    with open_dict(cfg):
        for key in ("encoder_overrides", "pretrained_weights", "reuse_ctc_head", "reuse_decoder"):
            cfg.pop(key, None)
        if source is not None:
            cfg.init_from_pretrained = None
            cfg.pretrained_from = str(source.path)

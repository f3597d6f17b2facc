"""Parts of a system's config that must be mappings, so that null in the place of one is told by its key."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.errors import SpeechLMError


def check_sections(cfg: DictConfig, *keys: str) -> None:
    """Check that the values of keys are mappings.

    Args:
        cfg: of the model.
        keys: below it, such as ``tlm.speech``; a part goes before what is in it.

    Raises:
        SpeechLMError: naming the first that is none.
    """
    for key in keys:
        value: Any = OmegaConf.select(cfg, key)
        if not isinstance(value, DictConfig):
            shown = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            raise SpeechLMError(f"model.{key} is {shown!r}, expected a mapping, with keys such as model.{key}.x=...")

"""Parts of a system's config: mappings, and of keys that something reads."""

from collections.abc import Collection
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


def check_keys(cfg: DictConfig, key: str, known: Collection[str]) -> None:
    """Check that a part has no keys that nothing reads.

    Args:
        cfg: of the model.
        key: of the part, which may be null.
        known: its keys.

    Raises:
        SpeechLMError: naming the first that is none of them.
    """
    strange = [name for name in OmegaConf.select(cfg, key) or () if name not in known]
    if strange:
        raise SpeechLMError(f"model.{key}.{strange[0]} is not a key of it; there are: {', '.join(known)}")

"""Which parts of a model other models take over, and which stay behind: each model says it of itself."""

from typing import Any, NamedTuple

from nemo.utils.model_utils import import_class_by_path
from omegaconf import DictConfig

from nemo_speechlm.nemo_targets import PREFIX

SHARED = ("preprocessor", "encoder")
"""Parts that every model with a SpeechLM encoder has, under these names."""


class Parts(NamedTuple):
    """The parts of a model, by the names of its submodules.

    Attributes:
        left_behind: what no other model takes over.
    """

    left_behind: tuple[str, ...] = ()


def parts_of(cfg: DictConfig) -> Parts | None:
    """The parts of the model that a ``.nemo`` file's config is of; None if its class does not say (NeMo's own).

    Only classes of this package are asked: a file must not choose what is imported.

    Args:
        cfg: its ``target`` names the class.
    """
    target = str(cfg.get("target"))
    if not target.startswith(PREFIX):
        return None
    try:
        model: Any = import_class_by_path(target)
    except (ImportError, AttributeError, ValueError):
        return None
    return getattr(model, "parts", None)

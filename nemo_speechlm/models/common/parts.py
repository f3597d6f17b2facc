"""Which parts of a model other models take over, and which stay behind: each model says it of itself.

A model class has ``parts: ClassVar[Parts]``. Fine-tuning, starting from another encoder and conversion ask it.
"""

import sys
from importlib import import_module
from typing import NamedTuple

from omegaconf import DictConfig

from nemo_speechlm.nemo_targets import PREFIX

SHARED = ("preprocessor", "encoder")
"""Parts that every model with a SpeechLM encoder has, under these names."""


class Parts(NamedTuple):
    """The parts of a model, by the names of its submodules.

    Attributes:
        shared: taken over by every model that starts from a file of this one.
        ctc_head: a :class:`~nemo_speechlm.modules.SpeechLMCTCHead`, taken over with ``reuse_ctc_head: true``; None
            where there is none.
        left_behind: what no other model takes over.
        transducer: a :class:`~nemo_speechlm.models.maestro.transducer.TransducerBranch`, taken over with
            ``reuse_decoder: true``; "" where the model itself has its ``decoder`` and ``joint``; None where there is
            none.
    """

    shared: tuple[str, ...] = SHARED
    ctc_head: str | None = None
    left_behind: tuple[str, ...] = ()
    transducer: str | None = None

    @property
    def names(self) -> set[str]:
        """All of them."""
        return {*self.shared, *self.left_behind, *filter(None, (self.ctc_head, self.transducer))}


def parts_of(cfg: DictConfig) -> Parts | None:
    """The parts of the model that a ``.nemo`` file's config describes; None if its class does not declare them.

    NeMo's own classes do not. A class outside of this package is asked only if its module is imported already: reading
    a file must not run code that the file names.

    Args:
        cfg: its ``target`` names the class.
    """
    path, _, name = str(cfg.get("target")).rpartition(".")
    module = sys.modules.get(path)
    if path.startswith(PREFIX):
        try:
            module = import_module(path)
        except ImportError:
            return None
    parts = getattr(getattr(module, name, None), "parts", None)
    return parts if isinstance(parts, Parts) else None

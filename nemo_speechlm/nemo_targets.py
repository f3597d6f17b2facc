"""Let NeMo build our classes from configs.

NeMo 3 instantiates ``_target_`` and ``target`` only from namespaces on an allow-list that has no public way in. Ours
is put on it when ``nemo_speechlm.modules`` or ``nemo_speechlm.models`` is imported, so a program that restores one of
our files through NeMo's own classes imports one of them first.
"""

import sys
from collections.abc import Iterable

from nemo.core.classes import common
from omegaconf import DictConfig, open_dict

PREFIX = "nemo_speechlm."


def allow_targets() -> None:
    """Put ``nemo_speechlm.`` on NeMo's list of namespaces that configs may name."""
    prefixes = getattr(common, "ALLOWED_TARGET_PREFIXES", None)  # NeMo before 2.6 had no such list
    if prefixes is not None and PREFIX not in prefixes:
        prefixes.append(PREFIX)


def name_publicly(cfg: DictConfig, model: type) -> None:
    """Let a model's config, and so its ``.nemo`` file, name the class by its public path.

    NeMo names it by the file that defines it, and then no file of ours could ever move.

    Args:
        cfg: the model's; its ``target`` is set.
        model: the class. One that a user derived from ours keeps its own path.
    """
    if model.__module__.startswith(PREFIX):
        with open_dict(cfg):
            cfg.target = f"{PREFIX}models.{model.__name__}"


def alias_former_modules(package: str, names: Iterable[str]) -> None:
    """Let ``package.name`` stand for ``package``: ``.nemo`` files of earlier versions name classes so.

    Args:
        package: imported already; it has the classes.
        names: of modules that it had once.
    """
    for name in names:
        sys.modules.setdefault(f"{package}.{name}", sys.modules[package])

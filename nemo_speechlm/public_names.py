"""Public names of a folder that are imported when they are asked for, so what needs one does not load them all."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def imported_when_asked(
    module: str, homes: Mapping[str, str]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """``__all__``, ``__getattr__`` and ``__dir__`` of a module (PEP 562).

    Args:
        module: its name.
        homes: the modules below ``nemo_speechlm`` that define its names.
    """
    names = sorted(homes)

    def get(name: str) -> Any:
        if name in homes:
            return getattr(import_module(f"nemo_speechlm.{homes[name]}"), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return names, get, lambda: names

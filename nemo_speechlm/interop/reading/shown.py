"""Unchecked values of a file in messages: short, and quick to make whatever they hold."""

import reprlib
from typing import Any

from torch import Tensor

_LONGEST = 200


class _Brief(reprlib.Repr):
    """Python's bounded ``repr``: two levels deep, a few items of each container."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 2, 60, 40, 60

    def repr_Tensor(self, value: Tensor, level: int) -> str:
        """A tensor's values say nothing, and take long to print."""
        return f"a tensor of shape {tuple(value.shape)}"

    def repr_PickledObject(self, value: Any, level: int) -> str:
        """An object that was not made."""
        return f"a {shortened(value.type)}"


def shown(value: Any) -> str:
    """``repr`` for a message: whole if it is short.

    >>> shown([1, "a"])
    "[1, 'a']"
    >>> shown(list(range(100)))
    '[0, 1, 2, 3, 4, 5, ...]'
    """
    return shortened(_Brief().repr(value))


def shortened(text: str) -> str:
    """A text, or the beginning of a long one."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."

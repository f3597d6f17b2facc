"""How much memory something takes."""

import tracemalloc
from collections.abc import Callable
from typing import Any


def traced_peak(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """The bytes that a call held at most, as Python and numpy tell of them, and what it returned."""
    tracemalloc.start()
    try:
        found = function(*arguments)
        return tracemalloc.get_traced_memory()[1], found
    finally:
        tracemalloc.stop()

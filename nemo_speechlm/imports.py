"""Importing NeMo, or what else takes seconds. Commands without Hydra do it, too: nothing heavy is imported here."""

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Import much at once: nobody looks for garbage meanwhile, which takes much of the time of importing NeMo.

    Nor later among what was imported: a million objects that stay, and that each full search would look at again.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            _leave_to_stay()
            gc.enable()


@functools.cache
def _leave_to_stay() -> None:
    """Once in a process: what is there when a second command begins has garbage in it."""
    gc.freeze()

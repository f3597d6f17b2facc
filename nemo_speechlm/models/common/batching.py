"""How much audio a model is given at once."""

from typing import Any

BATCH_DURATION = 120.0
"""Seconds of audio in a batch unless said otherwise."""


def depends_on_padding(model: Any) -> bool:
    """Whether what a model makes of an utterance depends on the padding of its batch (``released_padding``)."""
    return bool(getattr(getattr(model, "encoder", None), "released_padding", False))


def batch_seconds(given: float | None, one_by_one: bool) -> float:
    """Seconds of audio in a batch, padding included; 0: utterances one by one.

    Args:
        given: None for 120, or 0 where ``one_by_one``.
        one_by_one: whether the model depends on padding.
    """
    if given is not None:
        return given
    return 0.0 if one_by_one else BATCH_DURATION

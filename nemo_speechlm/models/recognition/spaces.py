"""Spaces before apostrophes and hyphens, which NeMo's decoding would delete."""

from typing import Any


def keep_spaces(model: Any) -> None:
    """Let a recognizer's texts have the spaces that it wrote.

    NeMo takes every label that Unicode calls punctuation for a mark that follows a word, and deletes a space before
    it: of "said 'tis" it would make "said'tis". Our texts have no such marks.

    Args:
        model: NeMo's or ours, with a ``decoding``.
    """
    model.decoding.supported_punctuation = None

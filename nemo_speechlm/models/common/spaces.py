"""Spaces before apostrophes and hyphens, which NeMo's decoding would delete."""

from typing import Any

from nemo_speechlm.modules.encoder import SpeechLMEncoder


def keep_spaces(model: Any) -> None:
    """Let a recognizer's texts have the spaces that it wrote.

    NeMo takes every label that Unicode calls punctuation for a mark that follows a word, and deletes a space before
    it: of "said 'tis" it would make "said'tis". Our texts have no such marks.

    Args:
        model: any; one that is not NeMo's recognizer with an encoder of ours is left as it is.
    """
    decoding: Any = getattr(model, "decoding", None)
    if isinstance(getattr(model, "encoder", None), SpeechLMEncoder) and hasattr(decoding, "supported_punctuation"):
        decoding.supported_punctuation = set()

"""Texts as ids of characters, and how many frames CTC needs to spell them."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nemo_speechlm.errors import InputError


def is_special(label: str) -> bool:
    """Whether a label is a symbol like ``<unk>`` of a converted model, not a character."""
    return len(label) > 2 and label[0] == "<" and label[-1] == ">"


def ctc_frames(targets: Sequence[int] | np.ndarray) -> int:
    """The fewest frames with which CTC can spell ``targets``: a blank must part equal neighbours."""
    targets = np.asarray(targets)
    return len(targets) + int(np.count_nonzero(targets[1:] == targets[:-1]))


TextEncoder = Callable[..., list[int]]
"""Turns (text, manifest, line) into label ids; the latter two are for messages, and may be left out."""


class CharacterEncoder:
    """Text to label ids.

    Args:
        labels: one character each; the id is the position. Those of converted models may have special symbols like
            ``<unk>`` among them, which no text is spelled with.
    """

    def __init__(self, labels: Sequence[str]):
        if not labels:
            raise InputError("labels is empty; expected the characters that the model may write")
        other = [label for label in labels if not isinstance(label, str)]
        if other:
            raise InputError(f"labels must be single characters, found {other[0]!r}; write it in quotes")
        long = [label for label in labels if len(label) != 1 and not is_special(label)]
        if long:
            raise InputError(f"labels must be single characters, found {long[0]!r}")
        twice = [label for label, count in Counter(labels).items() if count > 1]
        if twice:
            raise InputError(f"labels has {twice[0]!r} twice")
        self.labels = list(labels)
        self._ids = {label: index for index, label in enumerate(labels)}

    def __call__(self, text: str, path: str | Path | None = None, line: int | None = None) -> list[int]:
        """Encode a transcript; runs of white space count as one space.

        Raises:
            InputError: on a character that is not among the labels.
        """
        text = " ".join(text.split())
        try:
            return list(map(self._ids.__getitem__, text))
        except KeyError as error:
            raise InputError(self._unknown(error.args[0], text), path, line) from None

    def _unknown(self, character: str, text: str) -> str:
        other_case = [c for c in (character.lower(), character.upper()) if c in self._ids]
        hint = f"; the labels have {other_case[0]!r}: change the case of the text" if other_case else ""
        return (
            f"{character!r} (U+{ord(character):04X}) in {text[:60]!r} is not among the {len(self.labels)} labels"
            f" {''.join(self.labels)!r}{hint or '; add it to the labels or normalize the text'}"
        )

"""Characters that are written in several ways, and the one that the other files know."""

import re

_ONE_WAY = {**dict.fromkeys("\u2018\u2019\u02bc\uff07`\u00b4", "'"), **dict.fromkeys("\u2010\u2011", "-")}
"""Apostrophes and hyphens."""
_WRITTEN = re.compile(f"[{''.join(_ONE_WAY)}]")  # sooner done than str.translate

PLAIN_LETTERS = {"æ": "ae", "œ": "oe", "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "th", "þ": "th", "\u0131": "i"}
"""Lower-case letters that Unicode does not take apart, in those of English."""


class PunctuationFolder:
    """Writes apostrophes and hyphens as the ASCII ones.

    Apply it before Unicode's normal forms: NFKC makes a space and an accent of U+00B4, and U+2010 of U+2011.

    Args:
        alphabet: what is in it stays.

    >>> PunctuationFolder()("don\u00b4t")
    "don't"
    """

    def __init__(self, alphabet: str = ""):
        self._plain = {written: plain for written, plain in _ONE_WAY.items() if written not in alphabet}

    def __call__(self, text: str) -> str:
        """The text with one apostrophe and one hyphen."""
        return _WRITTEN.sub(self._of, text)

    def _of(self, found: re.Match[str]) -> str:
        return self._plain.get(found[0], found[0])

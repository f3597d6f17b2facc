"""Characters that are written in several ways, and the one that the other files know."""

_ONE_WAY = {**dict.fromkeys("\u2018\u2019\u02bc\uff07`\u00b4", "'"), **dict.fromkeys("\u2010\u2011", "-")}
"""Apostrophes and hyphens."""

PLAIN_LETTERS = {"æ": "ae", "œ": "oe", "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "th", "þ": "th", "\u0131": "i"}
"""Lower-case letters that Unicode does not take apart, in those of English."""


def punctuation_table(alphabet: str = "") -> dict[int, str]:
    """Apostrophes and hyphens to the ASCII ones, for ``str.translate``; those of the alphabet stay.

    Translate before Unicode's normal forms: NFKC makes a space and an accent of U+00B4, and U+2010 of U+2011.

    >>> "don\u00b4t".translate(punctuation_table())
    "don't"
    """
    return {ord(written): plain for written, plain in _ONE_WAY.items() if written not in alphabet}

"""Characters that are written in several ways, and the one that the other files know."""

import re
import unicodedata
from collections.abc import Collection

APOSTROPHES = "'\u2019\u02bc\u2018\uff07`\u00b4"
HYPHENS = "-\u2010\u2011"

PLAIN_LETTERS = {"æ": "ae", "œ": "oe", "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "th", "þ": "th", "\u0131": "i"}
"""Lower-case letters that Unicode does not take apart, in those of English."""


class PunctuationFolder:
    """Writes apostrophes and hyphens in one way: as the alphabet has them, or else as the ASCII ones.

    Apply it before Unicode's normal forms: NFKC makes a space and an accent of U+00B4, and U+2010 of U+2011.

    Args:
        alphabet: what is in it stays.

    >>> PunctuationFolder()("don\u00b4t"), PunctuationFolder("ять\u02bc")("п'ять")
    ("don't", 'пʼять')
    """

    def __init__(self, alphabet: str = ""):
        self._plain: dict[str, str] = {}
        for ways in (APOSTROPHES, HYPHENS):
            kept = [way for way in ways if way in alphabet] or [ways[0]]
            self._plain |= {way: kept[0] for way in ways if way not in kept}
        self._written = re.compile(f"[{re.escape(''.join(self._plain))}]")  # sooner done than str.translate

    def __call__(self, text: str) -> str:
        """The text with one apostrophe and one hyphen."""
        return self._written.sub(self._of, text)

    def _of(self, found: re.Match[str]) -> str:
        return self._plain[found[0]]


def in_lower_case(text: str, alphabet: str) -> str:
    """A text in lower case, by the rule of Turkish where the alphabet has both of its i.

    >>> in_lower_case("ILIK İL", "ıi"), in_lower_case("IL", "il")
    ('ılık il', 'il')
    """
    if "ı" in alphabet and "i" in alphabet:
        text = text.replace("I", "ı").replace("İ", "i")
    return text.lower()


def without_strays(text: str, alphabet: Collection[str]) -> str:
    """A text without invisible characters (soft hyphens, joiners) and marks (stress) that an alphabet does not have.

    >>> without_strays("за́\u00adмок", "замок")
    'замок'
    """
    return "".join(c for c in text if c in alphabet or unicodedata.category(c) not in ("Cf", "Mn", "Me"))

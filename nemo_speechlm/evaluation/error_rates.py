"""Word and character error rates with their kinds of errors. Letters count in Unicode's composed form (NFC)."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from kaldialign import align, edit_distance


@dataclass(frozen=True)
class ErrorCounts:
    """Edits that turn references into hypotheses, of one utterance or summed over many.

    >>> ErrorCounts(1, 0, 2, 10) + ErrorCounts(0, 1, 0, 10)
    ErrorCounts(substitutions=1, insertions=1, deletions=2, length=20)

    Attributes:
        substitutions: reference tokens replaced by another.
        insertions: hypothesis tokens with nothing in the reference.
        deletions: reference tokens with nothing in the hypothesis.
        length: reference tokens.
    """

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    length: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.length + other.length,
        )

    @property
    def errors(self) -> int:
        """All three kinds together."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors per reference token; may exceed 1. None if there are no reference tokens."""
        return self.errors / self.length if self.length else None


def count_errors(reference: Sequence, hypothesis: Sequence) -> ErrorCounts:
    """Align two token sequences with the fewest edits and count them by kind."""
    counts = edit_distance(list(reference), list(hypothesis))
    return ErrorCounts(counts["sub"], counts["ins"], counts["del"], len(reference))


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Errors in words, which are what white space separates.

    >>> word_errors("the cat sat", "a cat sat down").rate
    0.6666666666666666
    """
    return count_errors(_words(reference), _words(hypothesis))


def character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Errors in characters. A space between words counts as one; white space beyond that does not count.

    >>> character_errors("the cat", "the  cart").errors
    1
    """
    return count_errors(" ".join(_words(reference)), " ".join(_words(hypothesis)))


def align_words(reference: str, hypothesis: str) -> list[list[str | None]]:
    """Pairs of a reference word and the hypothesis word in its place, one of them None where words were lost or added.

    >>> align_words("the cat sat", "the cart sat down")
    [['the', 'the'], ['cat', 'cart'], ['sat', 'sat'], [None, 'down']]
    """
    # no word is white space, so it can stand for a gap
    pairs = align(_words(reference), _words(hypothesis), " ")
    return [[None if word == " " else word for word in pair] for pair in pairs]


def _words(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text).split()

"""What every source of pronunciations has in common, whatever its language and its phones."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from nemo_speechlm.units.inventory import UnitInventory


class Phonemizer(ABC):
    """Knows how words are pronounced.

    Attributes:
        language: ISO 639-1 code of the language.
    """

    language: str

    @abstractmethod
    def pronunciations(self, word: str) -> Sequence[Sequence[str]]:
        """The word's pronunciations in phones, the usual one first; memoized.

        Raises:
            InputError: if it cannot be pronounced.
        """

    @abstractmethod
    def inventory(self, style: str, words: Iterable[str]) -> UnitInventory:
        """The units that words are made of, without duration statistics.

        Args:
            style: ``position_stress`` or ``plain``.
            words: where the language's phones are not known beforehand, those that occur in these words are taken.
        """

    def prepare(self, words: Iterable[str]) -> None:  # noqa: B027  # nothing to do is a choice
        """Look several words up at once, if that is faster; words that cannot be pronounced are skipped."""

    def sentence(self, text: str) -> list[Sequence[str]]:
        """The usual pronunciation of each word of a sentence without punctuation."""
        words = text.split()
        self.prepare(words)
        return [self.pronunciations(word)[0] for word in words]

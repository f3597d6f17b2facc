"""N-gram models in the ARPA format: reading, and the perplexity of a text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import iter_lines

BEGIN, END = "<s>", "</s>"
UNKNOWN = ("<unk>", "<UNK>")
SPECIAL = (BEGIN, END, *UNKNOWN)
"""What stands among the words and is none."""


def labels_beside(arpa: str | Path) -> Path:
    """Where it stands which labels the ids of an ARPA file are; one of words has no such file."""
    return Path(arpa).with_name(f"{Path(arpa).name}.labels")


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        log10: of the text's probability, without unknown words.
        words: how many were predicted, ends of sentences included, unknown words not.
        unknown: how many words the model does not know.
        sentences: their number.
    """

    log10: float
    words: int
    unknown: int
    sentences: int

    @property
    def perplexity(self) -> float:
        """Per word."""
        return 10 ** (-self.log10 / max(self.words, 1))

    def __str__(self) -> str:
        known = f", {self.unknown} unknown words left out" if self.unknown else ""
        return f"perplexity {self.perplexity:.2f} ({self.sentences} sentences, {self.words} words and ends{known})"


class ArpaModel:
    """A back-off model held in a dictionary: for checks and small texts, not for decoding.

    Args:
        path: ARPA file, gzipped or not.

    Raises:
        InputError: naming file and line, if it is not one, or does not hold what its header says.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._grams: dict[tuple[str, ...], tuple[float, float]] = {}
        self.order = 0
        for words, probability, backoff in _read(self.path):
            self._grams[words] = probability, backoff
            self.order = max(self.order, len(words))

    def __contains__(self, word: str) -> bool:
        return (word,) in self._grams

    def __len__(self) -> int:
        """The number of n-grams of all orders."""
        return len(self._grams)

    def log10(self, word: str, context: Sequence[str]) -> float:
        """log10 of the probability of a word after others, with back-off.

        Raises:
            KeyError: if the model does not know the word.
        """
        history = tuple(context)[max(0, len(context) - self.order + 1) :]
        weight = 0.0
        while (*history, word) not in self._grams:
            if not history:
                raise KeyError(word)
            weight += self._grams[history][1] if history in self._grams else 0.0
            history = history[1:]
        return weight + self._grams[(*history, word)][0]

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> Perplexity:
        """Of sentences, each with its end; the unknown word stands in the history of those behind it."""
        log10, words, unknown, count = 0.0, 0, 0, 0
        name = next((word for word in UNKNOWN if word in self), UNKNOWN[0])
        for sentence in sentences:
            count += 1
            history = [BEGIN]
            for word in (*sentence, END):
                if word in self and word not in UNKNOWN:
                    log10, words = log10 + self.log10(word, history), words + 1
                else:
                    word, unknown = name, unknown + 1
                history.append(word)
        if not words:
            raise InputError(f"the model knows no word of the {count} sentences to be predicted", self.path)
        return Perplexity(log10, words, unknown, count)


def _read(path: Path) -> Iterator[tuple[tuple[str, ...], float, float]]:
    """Yield (words, log10 of the probability, back-off weight)."""
    expected: dict[int, int] = {}
    order, found = 0, 0
    number = 0
    for number, line in iter_lines(path):
        line = line.rstrip("\r\n")
        if order == 0 and line.startswith("ngram "):
            try:
                length, count = line.removeprefix("ngram ").split("=")
                expected[int(length)] = int(count)
            except ValueError:
                raise InputError(f"expected 'ngram N=COUNT', found {line[:60]!r}", path, number) from None
        elif line.startswith("\\") and (line.endswith("-grams:") or line.strip() == "\\end\\"):
            if order and found != expected.get(order):
                raise InputError(f"{found} {order}-grams, but its header says {expected.get(order)}", path, number)
            if line.strip() == "\\end\\":
                return
            order, found = int(line[1 : -len("-grams:")]), 0
        elif order:
            # a token may be a character that str.split takes for white space, such as U+0085
            fields = [field for field in line.replace("\t", " ").split(" ") if field]
            if len(fields) not in (order + 1, order + 2):
                raise InputError(f"expected a probability and {order} words, found {line[:60]!r}", path, number)
            found += 1
            try:
                backoff = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
                yield tuple(fields[1 : order + 1]), float(fields[0]), backoff
            except ValueError:
                raise InputError(f"expected numbers and {order} words, found {line[:60]!r}", path, number) from None
    raise InputError("is not a whole ARPA file: no \\end\\ in it", path, number or None)


def arpa_words(path: str | Path) -> list[str]:
    """The words of an n-gram model in the ARPA format (gzipped or not), without ``<s>``, ``<unk>`` and their like.

    Raises:
        InputError: if it is not in the ARPA format, or has no unigrams.
    """
    unigrams = [words[0] for words, _, _ in takewhile(lambda gram: len(gram[0]) == 1, _read(Path(path)))]
    if not unigrams:
        raise InputError("expected an n-gram model in the ARPA format, found no unigrams", path)
    return [word for word in unigrams if word not in SPECIAL]

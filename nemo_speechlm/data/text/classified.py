"""Sentences, or pairs of them, with their class: tab-separated files as GLUE has them."""

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from nemo_speechlm.data.text.folding import PunctuationFolder, without_strays
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import InputError

UnknownCharacters = Literal["error", "drop"]


class Classified(NamedTuple):
    """A line of such a file.

    Attributes:
        texts: one or two.
        label: its class, as it is written.
        line: its number, counted from 1.
    """

    texts: tuple[str, ...]
    label: str
    line: int


def read_classified(path: str | Path, text_columns: Sequence[str], label_column: str) -> list[Classified]:
    """The lines of a file with a header.

    Args:
        path: UTF-8, tab-separated; quotation marks stand for themselves.
        text_columns: of the one or two texts.
        label_column: of the class.

    Raises:
        InputError: if a column or a value is missing, or there is no line.
    """
    if not Path(path).is_file():
        raise InputError("no such file; expected a tab-separated file with a header", path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(rows, [])
        wanted = [*text_columns, label_column]
        if missing := [name for name in wanted if name not in header]:
            raise InputError(f"has no column {missing[0]!r}; its columns are: {', '.join(header)}", path, 1)
        places = [header.index(name) for name in wanted]
        lines = []
        for number, row in enumerate(rows, start=2):
            if len(row) != len(header):
                raise InputError(f"has {len(row)} columns, expected {len(header)}", path, number)
            *texts, label = (row[place].strip() for place in places)
            if empty := [name for name, value in zip(wanted, [*texts, label], strict=True) if not value]:
                raise InputError(f"{empty[0]!r} is empty", path, number)
            lines.append(Classified(tuple(texts), label, number))
    if not lines:
        raise InputError("has no line but the header", path)
    return lines


class TextWriter:
    """Writes texts as tokens of a model that was trained on cleaned text.

    Args:
        encoder: the model's tokens.
        lower_case: whether texts are lower-cased first.
        unknown_characters: ``error``, or ``drop`` those that no token has.
    """

    def __init__(self, encoder: TokenEncoder, lower_case: bool, unknown_characters: UnknownCharacters):
        self.encoder, self.lower_case = encoder, lower_case
        self.known = {" ", *"".join(encoder.labels)} if unknown_characters == "drop" else None
        self._punctuation = PunctuationFolder("".join(encoder.labels))

    def __call__(self, text: str, path: str | Path, line: int) -> list[int]:
        """The tokens of a text.

        Raises:
            InputError: on a character that no token has, or if nothing of the text is left.
        """
        text = text.lower() if self.lower_case else text
        if self.known is not None:
            # The forms that the tokens were learned in: what is only written otherwise is not unknown.
            text = unicodedata.normalize("NFKC", self._punctuation(text))
            text = without_strays(text, self.known)
            text = "".join(character if character in self.known else " " for character in text)
        tokens = self.encoder(text, path, line)
        if not tokens:
            raise InputError("nothing of the text can be written with the tokens of the model", path, line)
        return tokens

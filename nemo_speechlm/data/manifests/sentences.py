"""The sentences of a text file: lines of text, or JSON lines with "text"; gzipped or not."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import iter_lines, parse_line


def read_sentences(path: str | Path, text_field: str = "text", max_lines: int | None = None) -> Iterator[str]:
    """Yield the sentences, white space tidied, without the empty ones.

    Args:
        path: lines of text, or JSON lines (manifests, too) where the first line is one.
        text_field: the key of the text in JSON lines.
        max_lines: read no more lines than this.

    Raises:
        InputError: at a JSON line without a text.
    """
    json_lines = is_json_lines(path)
    for number, line in islice(iter_lines(path), max_lines):
        text: object = line
        if json_lines:
            text = parse_line(line, path, number, [text_field])[text_field]
            if not isinstance(text, str):
                raise InputError(f"{text_field!r} is {text!r}, expected a string", path, number)
        assert isinstance(text, str)
        if words := text.split():
            yield " ".join(words)


def is_json_lines(source: str | Path) -> bool:
    """Whether a text file's first line that is not blank looks like a JSON object."""
    return next((line.lstrip().startswith("{") for _, line in iter_lines(source)), False)

"""The sentences of a text file: lines of text, or JSON lines with "text"; gzipped or not."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from nemo_speechlm.data.manifests.lines import text_of
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
    for _, text in iter_texts(path, text_field, max_lines):
        if words := text.split():
            yield " ".join(words)


def iter_texts(path: str | Path, text_field: str = "text", max_lines: int | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) as it stands in the file; see :func:`read_sentences`."""
    json_lines = is_json_lines(path)
    for number, line in islice(iter_lines(path), max_lines):
        if json_lines:
            line = text_of(parse_line(line, path, number, [text_field]), text_field, path, number)
        yield number, line


def is_json_lines(source: str | Path) -> bool:
    """Whether a text file's first line that is not blank looks like a JSON object."""
    return next((line.lstrip().startswith("{") for _, line in iter_lines(source)), False)

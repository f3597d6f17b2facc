"""What a job is made of: the function over a line or a batch of lines, and its results."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import Record

Work = Callable[[int, str], Record]
"""Turns (line number, line) into the output record. Raises SkipItem, or InputError where the input is bad."""

Result = Record | InputError | SkipItem

BatchWork = Callable[[Sequence[tuple[int, str]]], Sequence[Result]]
"""Turns several (line number, line) into as many records; what :data:`Work` would raise stands in a record's place."""

Place = Callable[[Iterator[Record]], Iterable["Path | str | None"]]
"""Says of all finished records where each goes: None is the output, a path another file, a string why to skip it."""

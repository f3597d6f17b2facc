"""Alignment files of other tools: Kaldi's CTM, and Praat's TextGrid as the Montreal aligner writes it."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nemo_speechlm.errors import InputError


class Interval(NamedTuple):
    """A stretch of time with a label.

    Attributes:
        start: in seconds.
        end: in seconds.
        label: a phone or a word; empty where there is none.
        line: of the file, where it has one for each interval.
    """

    start: float
    end: float
    label: str
    line: int | None = None


class CtmFile:
    """A CTM file with phones: ``utterance channel start duration phone`` a line, all of an utterance together.

    Only where each utterance begins is kept in memory.

    Args:
        path: the file, not compressed.

    Raises:
        InputError: if it cannot be read, has a line without five fields, or an utterance in two places.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._places: dict[str, tuple[int, int]] = {}  # utterance -> offset, line
        last = None
        for offset, number, fields in self._lines(0, 1):
            if fields[0] != last:
                last = fields[0]
                if last in self._places:
                    raise InputError(
                        f"utterance {last!r} goes on after others, it began at line {self._places[last][1]}; sort the "
                        "file (sort -k1,1 -k3,3n)",
                        path,
                        number,
                    )
                self._places[last] = (offset, number)
        if not self._places:
            raise InputError("no alignments in it", path)

    def __contains__(self, utterance: str) -> bool:
        return utterance in self._places

    def __len__(self) -> int:
        return len(self._places)

    def intervals(self, utterance: str) -> list[Interval]:
        """The phones of an utterance.

        Raises:
            InputError: at a time that is not a number of seconds.
        """
        found = []
        for _, number, fields in self._lines(*self._places[utterance]):
            if fields[0] != utterance:
                break
            start, length = (self._seconds(field, number) for field in fields[2:4])
            found.append(Interval(start, start + length, fields[4], number))
        return found

    def labels(self) -> set[str]:
        """All phones in the file."""
        return {fields[4] for _, _, fields in self._lines(0, 1)}

    def _lines(self, offset: int, number: int) -> Iterator[tuple[int, int, list[str]]]:
        """(offset, line number, fields) of each line from an offset on."""
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                for at, line in enumerate(file, start=number):
                    if line.strip() and not line.startswith(b";;"):
                        fields = line.decode("utf-8").split()
                        if len(fields) < 5:
                            raise InputError(
                                "expected an utterance, a channel, a start, a duration and a phone, found "
                                f"{line.decode('utf-8').strip()[:60]!r}",
                                self.path,
                                at,
                            )
                        yield offset, at, fields
                    offset += len(line)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read as text: {error}", self.path) from error

    def _seconds(self, text: str, number: int) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"expected seconds, found {text!r}", self.path, number)
        return value


_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<![\w."])([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?![\w"])')
_INDEX = re.compile(r"\[\s*\d*\s*\]")


def read_textgrid(path: str | Path) -> dict[str, list[Interval]]:
    """The interval tiers of a TextGrid by name, in its long or short text format; those of one name are numbered.

    Raises:
        InputError: if it is something else, or cut off.
    """
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as text: {error}", path) from error
    # what is in quotes is a label, even if it looks like an index or a number
    parts = re.split(r'("(?:[^"]|"")*")', text)
    text = "".join(part if part.startswith('"') else _INDEX.sub(" ", part) for part in parts)
    tokens = iter([m[2] if m[2] is not None else '"' + m[1].replace('""', '"') for m in _TOKEN.finditer(text)])

    def string() -> str:
        token = next(tokens)
        if not token.startswith('"'):
            raise ValueError(f"expected a text, found {token}")
        return token[1:]

    def number() -> float:
        token = next(tokens)
        if token.startswith('"'):
            raise ValueError(f"expected a number, found {token}")
        return float(token)

    tiers: list[tuple[str, list[Interval]]] = []
    try:
        if (string(), string()) != ("ooTextFile", "TextGrid"):
            raise ValueError("expected the words ooTextFile and TextGrid at its beginning")
        number(), number()
        for _ in range(int(number())):
            kind, name = string(), string()
            number(), number()
            count = int(number())
            if kind == "IntervalTier":
                tiers.append((name, [Interval(number(), number(), string().strip()) for _ in range(count)]))
            else:  # points, which have one time each
                for _ in range(count):
                    number(), string()
    except (StopIteration, ValueError) as error:
        reason = "it ends too early" if isinstance(error, StopIteration) else str(error)
        raise InputError(f"not a TextGrid in text format, or cut off: {reason}", path) from error
    names = [name for name, _ in tiers]
    return {
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})": intervals
        for place, (name, intervals) in enumerate(tiers)
    }

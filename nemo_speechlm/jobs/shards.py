"""One job on several machines: each does a part of the lines; the joined outputs equal the output of one machine."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nemo_speechlm.errors import InputError, SpeechLMError

_FORM = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 0) of ``count`` parts of a job's lines.

    >>> Shard.parse("1/4").part(10)
    (2, 5)
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``"i/n"``, 0 <= i < n.

        Raises:
            SpeechLMError: if it is anything else.
        """
        found = _FORM.fullmatch(str(text))
        if not found or not int(found[1]) < int(found[2]):
            raise SpeechLMError(f"shard is {text!r}, expected i/n with i from 0 to n - 1, such as 0/4, or join/n")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def part(self, total: int, batch_size: int = 1) -> tuple[int, int]:
        """First line and the line after the last one, counted from 0; batches are not split."""
        batches = -(-total // batch_size)
        first, last = (batches * i // self.count * batch_size for i in (self.index, self.index + 1))
        return min(first, total), min(last, total)

    def path(self, output: str | Path) -> Path:
        """Where this shard's part of ``output`` is written: ``units.json.gz`` becomes ``units.shard0of4.json.gz``."""
        output = Path(output)
        stem, dot, endings = output.name.partition(".")
        return output.with_name(f"{stem}.shard{self.index}of{self.count}{dot}{endings}")


def parse_join(text: str | None) -> int | None:
    """The number of shards that ``join/n`` speaks of, or None if it says something else."""
    found = re.fullmatch(r"join/([1-9]\d*)", str(text))
    return int(found[1]) if found else None


def shard_outputs(output: str | Path, count: int) -> list[Path]:
    """The outputs of all shards.

    Raises:
        InputError: at the first that is not there.
    """
    paths = [Shard(index, count).path(output) for index in range(count)]
    for index, path in enumerate(paths):
        if not path.exists():
            raise InputError(f"no such file; run the command with shard={index}/{count} first", path)
    return paths

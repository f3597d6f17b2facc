"""What becomes of programs that are killed and run again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What became of a program that was killed.

    Attributes:
        seconds: of the undisturbed run.
        kills: how often it was killed.
        ends: how often it was brought to an end.
        resumed: kills that came when there was something to go on with.
        differences: files or weights that differed from the undisturbed run's.
    """

    seconds: float
    kills: int = 0
    ends: int = 0
    resumed: int = 0
    differences: tuple[str, ...] = field(default=())

    def compare(self, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Count a run that was brought to an end, and note in what it differs from the undisturbed one."""
        self.ends += 1
        differ = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
        self.differences = tuple(sorted({*self.differences, *differ}))

"""What a job is: a source's content, settings, and the lines; a digest says whether two are the same."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import differences, plain

_FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """A job's plan. What is not in it, such as engines, workers and shards, does not decide the output.

    Attributes:
        source: digest of the source's content.
        lines: of the source that are worked on, blank ones left out.
        batch_size: lines given to the work at once.
        settings: everything else that decides the result, as JSON gives it back.
        format: of the chunk files.
    """

    source: str
    lines: int
    batch_size: int
    settings: Mapping[str, Any]
    format: int = _FORMAT

    @classmethod
    def of(cls, source: str, lines: int, batch_size: int, settings: Mapping[str, Any]) -> "Plan":
        """A plan with settings of any types."""
        return cls(source, lines, batch_size, plain(settings))

    @property
    def digest(self) -> str:
        """Equal for equal plans alone (SHA-256)."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def difference(self, other: "Plan") -> str | None:
        """In what another plan differs, for the user; None if it does not."""
        if (self.source, self.lines) != (other.source, other.lines):
            same = self.lines == other.lines
            return f"another manifest ({self.lines} lines{' as well' if same else f', not {other.lines}'})"
        found = differences(self.settings, other.settings)
        if found:
            return "; ".join(found)
        return None if self == other else "another version of nemo_speechlm"


def save_json(values: Mapping[str, Any], path: Path) -> None:
    """Write a small JSON file that can be read by people."""
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_plan(values: Any, path: Path) -> Plan:
    """A plan from what JSON gave.

    Raises:
        InputError: if it is something else.
    """
    try:
        return Plan(**values)
    except TypeError as error:
        raise InputError(f"is not the plan of a job: {error}", path) from error

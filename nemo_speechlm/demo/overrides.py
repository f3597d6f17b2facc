"""Options of our commands as Hydra reads them: paths that need quotes get them, values are read as it does."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, Sweep
from hydra.errors import HydraException


def option(key: str, value: str | Path | Sequence[str | Path]) -> str:
    """``key=value`` of a path or a list of them, in quotes where Hydra would read something else.

    >>> option("output", "demo/units.json"), option("output", "Über (1)")
    ('output=demo/units.json', 'output="Über (1)"')
    >>> option("manifest", ["a.json", "b,c.json"])
    'manifest=[a.json,"b,c.json"]'
    """
    if isinstance(value, str | Path):
        return f"{key}={_quoted(str(value))}"
    return f"{key}=[{','.join(_quoted(str(item)) for item in value)}]"


def _quoted(text: str) -> str:
    return text if value_of(f"key=[{text}]") == [text] else QuotedString(text, Quote.double).with_quotes()


@cache
def value_of(word: str) -> Any:
    """The value in ``key=value``; None if there is none, or Hydra cannot read it."""
    try:
        value = OverridesParser.create().parse_override(word).value()
    except HydraException:
        return None
    return None if isinstance(value, Sweep) else value

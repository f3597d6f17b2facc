"""The commands in examples/, run in the process of the tests."""

import runpy
import sys
from pathlib import Path
from unittest import mock

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run_example(name: str, *arguments: object) -> int:
    """Run a command as from a shell; returns its exit status."""
    path = str(EXAMPLES / name)
    with mock.patch.object(sys, "argv", [path, *map(str, arguments)]):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
    return 0

"""The pages a user reads, README.md and docs/, and the blocks of commands in them.

How a page's commands are tested stands in comments of its source:

- ``<!-- commands: run -->``: each block is run, at small size.
- ``<!-- commands: run with LONG_TESTS=1, otherwise ... -->``: only then; without it their options are checked.
- ``<!-- commands: run by tests/... -->``: by a test of their own.
- ``<!-- commands: options checked: reason -->``: never run.
- ``<!-- not run: reason -->`` above a block: this one is not run. Its options are checked.
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"(?:<!-- not run: ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MODE = re.compile(r"<!-- commands: (.*?) -->", re.DOTALL)


class Block(NamedTuple):
    """A block of code.

    Attributes:
        page: its page, from the project's root.
        line: of the page, from 1.
        language: ``bash``, ``python``, ...; empty if the page does not say.
        code: what stands in it.
        reason: why it is not run; None if it is.
    """

    page: str
    line: int
    language: str
    code: str
    reason: str | None


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    return [
        Block(name, text.count("\n", 0, found.start()) + 1, found[2], found[3], found[1])
        for found in _BLOCK.finditer(text)
    ]


def mode(path: Path) -> str | None:
    """How the page's commands are tested, as its source says."""
    found = _MODE.search(path.read_text(encoding="utf-8"))
    return None if found is None else " ".join(found[1].split())


def command_lines(code: str) -> list[str]:
    """The lines of a shell script: continued ones joined, loops over words unrolled, comments taken off."""
    code = re.sub(r"\\\n\s*", "", code)
    code = re.sub(
        r"for (\w+) in ([^;]*); do\n(.*?)\ndone",
        lambda loop: "\n".join(loop[3].replace(f"${loop[1]}", value) for value in loop[2].split()),
        code,
        flags=re.DOTALL,
    )
    lines = (re.sub(r"(^|\s)#\s.*", "", line).strip() for line in code.splitlines())
    return [line for line in lines if line]

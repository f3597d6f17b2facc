"""The program ``nemo-speechlm``: its commands are the files of ``examples/``, from a clone and from a wheel alike.

``nemo-speechlm transcribe key=value`` does what ``python examples/transcribe.py key=value`` does.
"""

import ast
import difflib
import re
import runpy
import sys
from pathlib import Path

NAME = "nemo-speechlm"

_PACKAGE = Path(__file__).resolve().parent


def _folder(installed: str, top: str) -> Path:
    """A folder that a wheel has inside the package, and a clone beside it."""
    inside = _PACKAGE / installed
    return inside if inside.is_dir() else _PACKAGE.parent / top


COMMANDS = _folder("commands", "examples")
CONF = _folder("conf", "conf")


def commands() -> dict[str, str]:
    """The first line of each command's docstring, by the command's name."""
    found = {}
    for path in sorted(COMMANDS.glob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = doc.partition("\n")[0].rstrip(":")
    return found


def shown() -> str:
    """The command that runs, as one types it: ``nemo-speechlm NAME``, or ``python`` and a path."""
    path = Path(sys.argv[0])
    return f"{NAME} {path.stem}" if _by_program else f"python {path}"


def as_typed(text: str) -> str:
    """A text with ``python examples/transcribe.py`` as ``nemo-speechlm transcribe`` if the program runs."""
    return re.sub(r"python examples/(\w+)\.py", rf"{NAME} \1", text) if _by_program else text


_by_program = False


def main() -> None:
    """Run the command that the first argument names; list the commands if there is none.

    An unknown name ends with status 2 and the names that are near it.
    """
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        known = commands()
        width = max(map(len, known))
        print(f"usage: {NAME} COMMAND [--help] [key=value ...]\ncommands:")
        print("\n".join(f"    {each:{width}}  {line}" for each, line in known.items()))
        return
    names = sorted(path.stem for path in COMMANDS.glob("*.py"))
    name = name.removesuffix(".py")
    if name not in names:
        near = list(dict.fromkeys([*(n for n in names if name in n), *difflib.get_close_matches(name, names)]))
        hint = f"did you mean {' or '.join(near)}?" if near else f"{NAME} --help lists those there are"
        print(f"error: no command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    path = str(COMMANDS / f"{name}.py")
    global _by_program
    _by_program = True
    sys.argv = [path, *arguments]  # as Lightning starts further processes: python path key=value
    try:
        runpy.run_path(path, run_name="__main__")
    finally:
        _by_program = False

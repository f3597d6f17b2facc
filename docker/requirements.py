"""Write what to install into an image that already has packages of its own, which stay as they are.

    python docker/requirements.py FOLDER [EXTRA ...]

reads ``pyproject.toml`` and ``constraints.txt`` in the current folder and writes ``FOLDER/requirements.txt``, the
package's dependencies, and ``FOLDER/constraints.txt``: the image's versions of torch, NeMo and all that is compiled
against them, and ours of what the image has not. Of the rest pip keeps what satisfies the requirements.
"""

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

HELD = re.compile(r"torch.*|(pytorch|triton|nvidia|cuda|apex|transformer-engine|flash-attn|nemo-toolkit|numpy)(-.*)?")
"""What an image has is never replaced: it was built for the image's CUDA, or against what was."""


def requirements(project: dict, extras: list[str]) -> list[str]:
    """The dependencies of a project's table in ``pyproject.toml``, and those of its extras."""
    optional = project.get("optional-dependencies", {})
    unknown = [extra for extra in extras if extra not in optional]
    if unknown:
        sys.exit(f"error: no extra {', '.join(unknown)}; there are {', '.join(optional)}")
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]


def constraints(present: dict[str, str], pins: list[str]) -> list[str]:
    """What is present and held, at its version, and the pins of what is not present."""
    present = {_canonical(name): version for name, version in present.items()}
    ours = [pin for pin in pins if pin.strip() and not pin.startswith("#")]
    missing = [pin for pin in ours if _canonical(re.split("[ ;=<>!~]", pin)[0]) not in present]
    return [f"{name}=={version}" for name, version in sorted(present.items()) if HELD.fullmatch(name)] + missing


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """The command."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder, extras = Path(sys.argv[1]), sys.argv[2:]
    folder.mkdir(parents=True, exist_ok=True)
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    present = {found.metadata["Name"]: found.version for found in distributions() if found.metadata["Name"]}
    pins = Path("constraints.txt").read_text(encoding="utf-8").splitlines()
    for name, lines in (
        ("requirements.txt", requirements(project, extras)),
        ("constraints.txt", constraints(present, pins)),
    ):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

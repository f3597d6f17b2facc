"""The reference of configs: a page for each file in conf/, made of its keys, values and comments."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
TABLE = "| key | value | |\n|---|---|---|"
INDEX = """# Configs

Each command reads a file of `conf/` and takes `key=value` to change it. `--config-name` chooses another file. A file
may begin with what others say (`defaults`). `???` must be given; `null` means none.
"""


class Key(NamedTuple):
    """One line of a config.

    Attributes:
        line: where it stands in the file, from 0.
        path: its name with those of the mappings that it is in, with dots.
        value: as it is written; empty for a mapping whose keys follow.
        comment: what the file says of it.
    """

    line: int
    path: str
    value: str
    comment: str


def comment_at(lines: list[str], line: int, column: int) -> str:
    """The comment that begins after a column of a line, with the lines of comment that go on below it.

    A line of comment goes on if it stands far to the right of the key.
    """
    rest = re.match(r"\s*(#.*)$", lines[line][column:])
    if rest is None:
        return ""
    indent = len(lines[line]) - len(lines[line].lstrip())
    words = [rest[1].lstrip("# ").rstrip()]
    for below in lines[line + 1 :]:
        if not re.match(rf"\s{{{indent + 5},}}#", below):
            break
        words.append(below.strip().lstrip("# "))
    return " ".join(words)


def keys(text: str, node: yaml.Node | None = None, above: str = "") -> Iterator[Key]:
    """All keys of a config. Mappings in braces are values; others are followed."""
    lines = text.splitlines()
    node = node or yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    for name, value in node.value:
        path = f"{above}{name.value}"
        line = name.start_mark.line
        nested = isinstance(value, yaml.MappingNode) and not value.flow_style
        if nested or (value.start_mark.line != line and value.value):  # on the lines below
            comment = comment_at(lines, line, name.end_mark.column + 1)
        else:
            comment = comment_at(lines, value.end_mark.line, value.end_mark.column)
        written = "" if nested else text[value.start_mark.index : value.end_mark.index]
        if not isinstance(value, yaml.ScalarNode):
            written = re.sub(r"\s#.*", "", written)
        yield Key(line, path, " ".join(written.split()), comment)
        if nested:
            yield from keys(text, value, f"{path}.")


def remarks(text: str, known: list[Key]) -> Iterator[tuple[int, str]]:
    """(line, text) of the comments that stand on lines of their own and do not go on from a key's."""
    taken = " ".join(key.comment for key in known)
    block: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""]):
        said = re.match(r"\s*#\s?(.*)$", line)
        if said and not said[1].startswith("@package"):
            block.append(said[1])
        elif block:
            words = " ".join(" ".join(block).split())
            if words not in taken:
                yield number, words
            block = []


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return re.sub(r"([<>*_\[\]{}])", r"\\\1", text.replace("|", "\\|"))


def code(text: str) -> str:
    """Text as code for a cell of a table; nothing for nothing."""
    return f"`` {text} ``".replace("|", "\\|") if text else ""


def parents(path: Path) -> str:
    """What a config inherits, as a sentence with links."""
    found = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", []):
        if isinstance(entry, dict):
            group, name = next(iter(entry.items()))
            found.append(f"`{str(group).lstrip('/')}={name}`")
        elif entry != "_self_":
            base = entry.split("@")[0]
            place = (CONF if base.startswith("/") else path.parent) / f"{base.lstrip('/')}.yaml"
            up = "../" * (len(path.relative_to(CONF).parts) - 1)
            found.append(f"[{base}]({up}{place.relative_to(CONF).with_suffix('.md').as_posix()})")
    return f"Begins with: {', '.join(found)}.\n" if found else ""


def page(path: Path) -> str:
    """The page of a config: its remarks, and tables of its keys."""
    text = path.read_text(encoding="utf-8")
    known = list(keys(text))
    said = [(line, "remark", words) for line, words in remarks(text, known)]
    rows = [
        (key.line, "row", f"| `{key.path}` | {code(key.value)} | {cell(key.comment)} |")
        for key in known
        if (key.value or key.comment) and key.path != "defaults"
    ]
    parts = [f"# {path.relative_to(CONF).with_suffix('').as_posix()}", "", parents(path)]
    before = ""
    for _, kind, words in sorted(said + rows, key=lambda part: (part[0], part[1] == "row")):
        if kind == "row" and before != "row":
            parts += ["", TABLE]
        parts.append(words if kind == "row" else f"\n{cell(words)}\n")
        before = kind
    return "\n".join(parts) + "\n"


def index(paths: list[Path]) -> str:
    """The list of all configs, by folder, with what each says first."""
    lines = [INDEX]
    folder = None
    for path in sorted(paths, key=lambda path: (len(path.relative_to(CONF).parts), path)):
        if path.parent != folder:
            folder = path.parent
            name = folder.relative_to(CONF).as_posix()
            lines.append(f"\n## {'Commands and recipes' if name == '.' else name}\n\n| config | |\n|---|---|")
        first = next((words for _, words in remarks(path.read_text(encoding="utf-8"), [])), "")
        place = path.relative_to(CONF).with_suffix("")
        summary = cell(re.split(r"(?<=[.:])\s", first)[0]) if path.read_text()[:1] == "#" else ""
        lines.append(f"| [{place.name}]({place.as_posix()}.md) | {summary} |")
    return "\n".join(lines) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each config, and their index."""
    paths = sorted(CONF.rglob("*.yaml"))
    for path in paths:
        place = path.relative_to(CONF).with_suffix(".md").as_posix()
        files.append(File.generated(config, f"reference/configs/{place}", content=page(path)))
    files.append(File.generated(config, "reference/configs/index.md", content=index(paths)))
    return files

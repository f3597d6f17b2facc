"""Imports go downwards, from room to room, and never in a circle of files: docs/house.md draws the rooms."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nemo_speechlm"

LAYERS = [
    {"errors", "kernels", "losses", "checks", "files", "storage", "locks", "tensor_file", "nemo_targets"}
    | {"public_names", "program", "__main__", "cli", "command_help", "quiet", "imports"},
    {"modules", "units"},
    {"jobs"},
    {"language_models", "alignment", "data"},
    {"pronouncing", "decoding", "testing"},
    {"models"},
    {"tokenizers", "inference", "interop", "hub"},
    {"evaluation"},
    {"demo", "training", "serving", "environment"},
]
"""From the ground floor up: a room imports from its own layer's ground (the first), itself, and the layers below."""

CELLAR = {
    "kernels": set(),  # torch and triton alone
    "losses": {"kernels"},
    "errors": set(),
    "checks": {"errors"},
    "files": {"errors", "locks", "storage"},
    "storage": {"errors"},
    "tensor_file": {"errors", "files"},
    "nemo_targets": set(),
    "public_names": set(),
    "locks": {"errors"},
    "program": set(),
    "__main__": {"program"},
    "quiet": set(),
    "imports": set(),
    "command_help": {"errors", "program"},
    "cli": {"errors", "checks", "files", "locks", "program", "command_help", "quiet"},
    "alignment": {"errors", "files", "locks", "tensor_file", "kernels", "checks"},  # knows no units
}
"""Rooms that import nothing but these."""


def modules():
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(path, known):
    """Modules of ours that a file imports, also inside of functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


@cache
def graph():
    known = modules()
    return {name: set(imports(path, known)) - {name} for name, path in known.items()}


def room(module):
    return module.split(".")[1] if "." in module else ""


def layer(name):
    return next(i for i, rooms in enumerate(LAYERS) if name in rooms)


def test_every_room_has_its_layer():
    rooms = {room(name) for name in modules()} - {""}
    assert rooms == set().union(*LAYERS)


def test_imports_go_downwards():
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if room(name) and room(other) and room(other) != room(name) and layer(room(other)) >= max(layer(room(name)), 1)
    ]
    assert not wrong


@pytest.mark.parametrize("name", CELLAR)
def test_rooms_that_know_little(name):
    wrong = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others
        if room(module) == name and room(other) and room(other) not in CELLAR[name] | {name}
    ]
    assert not wrong


def test_no_circle_of_files():
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_circle_would_be_seen():
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


def test_units_need_neither_torch_nor_nemo():
    for name, path in modules().items():
        if room(name) == "units":
            found = {
                alias.name
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import)
                for alias in node.names
            }
            found |= {
                node.module for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
            }
            assert not {module.split(".")[0] for module in found} & {"torch", "nemo", "lightning", "lhotse"}

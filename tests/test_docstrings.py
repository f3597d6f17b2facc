"""The examples in docstrings say what comes out."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for path in sorted((ROOT / "nemo_speechlm").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples(path):
    *package, name = path.relative_to(ROOT).with_suffix("").parts
    found = doctest.testmod(import_module(".".join(package if name == "__init__" else [*package, name])))
    assert found.failed == 0


def test_there_are_examples():
    assert len(FILES) > 20

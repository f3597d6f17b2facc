"""kill -9 in the middle of a tool: what it makes in the end is what it makes undisturbed."""

import importlib.util
import sys
from pathlib import Path

import pytest

from nemo_speechlm.data.corpora.demo.grammar import sentences
from nemo_speechlm.data.manifests.lines import write_manifest
from tests.long_forms import LONG

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kill_and_resume.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("kill_and_resume", PROGRAM)
    module = sys.modules["kill_and_resume"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["prepare_text", *(["tokenize_text english"] if LONG else [])])
def test_killed_twice(program, tmp_path: Path, name: str):
    lines = [line for line, _ in zip(sentences(1), range(4000), strict=False)]
    (tmp_path / "text.txt").write_text("\n".join(lines + lines[:300]) + "\n")
    write_manifest(tmp_path / "text.json", ({"text": line} for line in lines))
    tool = next(tool for tool in program.text_tools(tmp_path / "text.txt", 4000) if tool.name == name)
    outcome = program.disturb(tool, tmp_path / "runs", kills=2)
    assert outcome.kills == 2
    assert outcome.differences == ()


def test_what_differs_is_seen(program, tmp_path: Path):
    tool = program.text_tools(tmp_path / "text.txt", 100)[0]
    (tmp_path / "text.txt").write_text("\n".join(line for line, _ in zip(sentences(1), range(100), strict=False)))
    program.fresh(tool, tmp_path / "a")
    before = program.contents(tmp_path / "a")
    (tmp_path / "a" / "text.txt").write_text("else")
    assert program.contents(tmp_path / "a") != before

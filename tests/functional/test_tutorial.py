"""The notebook of docs/tutorials: what was kept of a run is whole, and LONG_TESTS=1 runs it anew."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.long_forms import LONG
from tests.pages import ROOT

pytest.importorskip("espeakng_loader")
NOTEBOOK = ROOT / "docs" / "tutorials" / "first_recognizer.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_is_kept_with_what_it_printed_and_drew():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert pictures(notebook) == 3
    assert not [output for output in outputs if output.output_type == "error"]
    printed = "".join(output.get("text", "") for output in outputs)
    assert re.search(r"WER \d+\.\d%, CER \d+\.\d%", printed)
    assert not re.search(r"/(?:tmp|home|root|work)/", printed)
    assert NOTEBOOK.stat().st_size < 1_000_000


def test_the_notebooks_commands_are_there():
    source = "\n".join(cell.source for cell in code_cells(nbformat.read(NOTEBOOK, as_version=4)))
    calls = re.findall(r'run\(\s*"(\w+)"', source)
    assert {"prepare_data", "tokenize_speech", "tokenize_text", "speechlm_pretrain"} <= set(calls)
    assert all((ROOT / "examples" / f"{name}.py").exists() for name in calls)


@pytest.mark.skipif(not LONG, reason="a quarter of an hour: with LONG_TESTS=1")
@pytest.mark.parametrize("small", ["1", ""])
@pytest.mark.timeout(3600)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: str):
    monkeypatch.setenv("TUTORIAL_OUT", str(tmp_path))
    monkeypatch.setenv("TUTORIAL_SMALL", small)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=3000, kernel_name="python3", resources=where).execute()
    assert pictures(notebook) == 3
    assert (tmp_path / "ctc.nemo").exists()

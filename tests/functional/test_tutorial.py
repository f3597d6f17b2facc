"""The notebook of docs/tutorials runs as it is: tiny in `make test`, whole with LONG_TESTS=1."""

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


@pytest.mark.timeout(3600 if LONG else 600)
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TUTORIAL_OUT", str(tmp_path))
    monkeypatch.setenv("TUTORIAL_SMALL", "" if LONG else "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=3000, kernel_name="python3", resources=where).execute()
    assert pictures(notebook) == 3
    assert (tmp_path / "ctc.nemo").exists()

"""The notebooks of docs/tutorials: what was kept of a run is whole, and LONG_TESTS=1 runs them anew."""

import ast
import os
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.long_forms import LONG
from tests.pages import ROOT

TUTORIALS = ROOT / "docs" / "tutorials"
NOTEBOOK = TUTORIALS / "first_recognizer.ipynb"
SPACE = TUTORIALS / "shared_space.ipynb"
PICTURES = {NOTEBOOK: 3, SPACE: 3}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(notebook):
    return "".join(output.get("text", "") for cell in code_cells(notebook) for output in cell.outputs)


def test_every_notebook_is_known():
    assert set(PICTURES) == set(TUTORIALS.glob("*.ipynb"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_what_it_printed_and_drew(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert pictures(notebook) == PICTURES[path]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not re.search(r"/(?:tmp|home|root|work)/", printed(notebook))
    assert path.stat().st_size < 1_000_000


def test_the_first_recognizer_has_an_error_rate():
    assert re.search(r"WER \d+\.\d%, CER \d+\.\d%", printed(nbformat.read(NOTEBOOK, as_version=4)))


def check_space(text, swapping_gains):
    """The scores of each layer that the notebook on the shared space printed, and its character error rates."""
    scores = {
        name: [int(value) for value in re.findall(r"(\d+)%", row)]
        for name, row in re.findall(r"^(swapping|no_swapping) ((?: +\d+%){4})$", text, flags=re.MULTILINE)
    }
    rates = {name: int(rate) for name, rate in re.findall(r"^(\w+): CER (\d+)%", text, flags=re.MULTILINE)}
    assert set(scores) == set(rates) == {"swapping", "no_swapping"}
    if swapping_gains:
        assert min(scores["swapping"]) > 60 > 30 > max(scores["no_swapping"])
        assert rates["swapping"] < 40 < 70 < rates["no_swapping"]


def test_the_shared_space_says_what_its_text_says():
    check_space(printed(nbformat.read(SPACE, as_version=4)), swapping_gains=True)


def test_the_cells_on_the_shared_space_run(tmp_path, monkeypatch):
    """In this process, with a few updates: not how good the models are, but that all of it works."""
    monkeypatch.setenv("TUTORIAL_OUT", str(tmp_path))
    monkeypatch.setenv("TUTORIAL_SMALL", "1")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    names, drawn, text = {}, 0, StringIO()
    for number, cell in enumerate(code_cells(nbformat.read(SPACE, as_version=4))):
        *body, last = ast.parse(cell.source).body
        value = last.value if isinstance(last, ast.Expr) else None
        if value is None:
            body.append(last)
        with redirect_stdout(text):
            exec(compile(ast.Module(body, []), f"cell {number}", "exec"), names)
            shown = value and eval(compile(ast.Expression(value), f"cell {number}", "eval"), names)
        drawn += getattr(shown, "format", None) == "png"
    assert drawn == PICTURES[SPACE]
    check_space(text.getvalue(), swapping_gains=False)
    assert {path.name for path in tmp_path.glob("*.png")} == {"alignment.png", "space.png", "scores.png"}


def test_the_notebooks_commands_are_there():
    source = "\n".join(cell.source for cell in code_cells(nbformat.read(NOTEBOOK, as_version=4)))
    calls = re.findall(r'run\(\s*"(\w+)"', source)
    assert {"prepare_data", "tokenize_speech", "tokenize_text", "speechlm_pretrain"} <= set(calls)
    assert all((ROOT / "examples" / f"{name}.py").exists() for name in calls)


@pytest.mark.skipif(not LONG, reason="a quarter of an hour: with LONG_TESTS=1")
@pytest.mark.parametrize(("path", "small"), [(NOTEBOOK, "1"), (NOTEBOOK, ""), (SPACE, "")])
@pytest.mark.timeout(3600)
def test_a_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path, small: str):
    if path == NOTEBOOK:
        pytest.importorskip("espeakng_loader")
    monkeypatch.setenv("TUTORIAL_OUT", str(tmp_path))
    monkeypatch.setenv("TUTORIAL_SMALL", small)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=3000, kernel_name="python3", resources=where).execute()
    assert pictures(notebook) == PICTURES[path]
    if path == NOTEBOOK:
        assert (tmp_path / "ctc.nemo").exists()
    else:
        check_space(printed(notebook), swapping_gains=True)

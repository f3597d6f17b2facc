"""A page for each notebook in docs/: its text, its code, and what the code printed and drew."""

import json
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def output(value: dict) -> str:
    """One output of a cell: a picture, a sound, or text."""
    data = value.get("data", {})
    markup = "".join(data.get("text/html", ""))
    if "<audio" in markup:
        return " ".join(markup.split())
    if "image/png" in data:
        return f'<img alt="drawn by the cell above" src="data:image/png;base64,{data["image/png"].strip()}">'
    text = "".join(value.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def page(notebook: dict, name: str) -> str:
    """The notebook as Markdown."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [output(value) for value in cell["outputs"]]
    parts.insert(1, f"This page is a notebook: [{name}]({name}).")
    return "\n\n".join(part for part in parts if part) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of notebooks."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            notebook = json.loads(Path(str(file.abs_src_path)).read_text(encoding="utf-8"))
            place = file.src_uri.removesuffix(".ipynb") + ".md"
            files.append(File.generated(config, place, content=page(notebook, Path(file.src_uri).name)))
    return files

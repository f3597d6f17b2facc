"""The reference of the API: a page for each package with public names, made of their docstrings by mkdocstrings."""

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "modules", "losses", "units", "tokenizers", "testing")
INDEX = """# API

Public names are those that configs and `.nemo` files name. Files inside the package may move.

| package | |
|---|---|
"""


def public_names(package: str) -> tuple[str, dict[str, str]]:
    """First paragraph of a package's docstring, and its public names with the modules that define them."""
    tree = ast.parse((ROOT / "nemo_speechlm" / package / "__init__.py").read_text(encoding="utf-8"))
    exported: list[str] = []
    homes: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            homes |= {name.asname or name.name: str(node.module) for name in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name == "_HOMES":
                homes |= {key: f"nemo_speechlm.{home}" for key, home in ast.literal_eval(node.value).items()}
                exported = sorted(homes.keys() - {"Any", "import_module"})
            elif name == "__all__" and isinstance(node.value, ast.List):
                exported = ast.literal_eval(node.value)
    return (ast.get_docstring(tree) or "").split("\n\n")[0], {
        name: homes[name] for name in exported if not _of_another_page(package, homes[name])
    }


def _of_another_page(package: str, home: str) -> bool:
    """Whether a name's module is in another package that has a page."""
    return home.split(".")[1] in set(PACKAGES) - {package}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each package, and their index."""
    index = INDEX
    for package in PACKAGES:
        summary, homes = public_names(package)
        blocks = "\n\n".join(f"::: {home}.{name}" for name, home in homes.items())
        text = f"# nemo_speechlm.{package}\n\n{summary}\n\n{blocks}\n"
        files.append(File.generated(config, f"reference/api/{package}.md", content=text))
        index += f"| [`nemo_speechlm.{package}`]({package}.md) | {' '.join(summary.split())} |\n"
    files.append(File.generated(config, "reference/api/index.md", content=index))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Docstrings name classes as ``:class:`Name```; show the name alone."""
    if page.file.src_uri.startswith("reference/api/"):
        html = re.sub(r":(?:class|func|meth|mod|data|attr):(<code>)~?", r"\1", html)
    return html

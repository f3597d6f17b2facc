"""Files outside docs/ that the site shows, and links to files of the repository.

README.md, CONTRIBUTING.md, CHANGELOG.md and benchmarks/*.md become pages. Pages are written with links that work in
the repository; here they are changed to the place that a file has in the site. Other files that a page links to
are copied below ``repository/``.
"""

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages, and where."""
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")

log = logging.getLogger("mkdocs.hooks.repository_pages")


def pages() -> dict[str, str]:
    """Path in the repository -> path in the site, of the pages that do not stand in docs/."""
    found = {name: page for name, page in PAGES.items() if (ROOT / name).exists()}
    return found | {f"benchmarks/{path.name}": f"benchmarks/{path.name}" for path in ROOT.glob("benchmarks/*.md")}


def in_site(path: str) -> str | None:
    """Where the site has a file or folder of the repository; None where there is no such file."""
    if path in pages():
        return pages()[path]
    if path.startswith("docs/"):
        page = path.removeprefix("docs/")
        return re.sub(r"\.ipynb$", ".md", page)
    if not (ROOT / path).exists():
        return None
    if path.startswith("conf"):
        is_recipe = path.endswith(".yaml")
        return f"reference/configs/{path[5:-5]}.md" if is_recipe else "reference/configs/index.md"
    return f"repository/{path}" if (ROOT / path).is_file() else None


def linked(markdown: str, source: str) -> dict[str, str]:
    """Links of a page to files of the repository -> their paths in it. ``source`` is the page's own path in it."""
    found = {}
    for link in LINK.finditer(re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)):
        target = link[2]
        if not re.match(r"[a-z]+:", target):
            found[target] = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    return found


def source_of(page_path: str) -> str:
    """Path in the repository of a page of the site."""
    made = {page: name for name, page in pages().items()}
    return made.get(page_path, f"docs/{page_path}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and copies of the files that pages link to."""
    for name, page in pages().items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    copies = set()
    for file in files.documentation_pages():
        for path in linked(file.content_string, source_of(file.src_uri)).values():
            place = in_site(path)
            if place is not None and place.startswith("repository/"):
                copies.add((path, place))
    for path, place in sorted(copies):
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository to where the site has them; a file that is not there is warned of."""
    source = source_of(page.file.src_uri)
    paths = linked(markdown, source)

    def turned(link: re.Match[str]) -> str:
        path = paths.get(link[2])
        if path is None:
            return link[0]
        place = in_site(path)
        if place is None:
            log.warning("%s links to %s, which is not a file of the repository", source, link[2])
            return link[0]
        if place == page.file.src_uri:  # a notebook's page offers the notebook
            return link[0]
        target = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
        return f"{link[1]}{target}{link[3] or ''}{link[4]}"

    return LINK.sub(turned, markdown)

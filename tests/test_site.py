"""`make docs`: the site is whole, its references are made of the sources, and broken links are errors."""

import html
import importlib.util
import re

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from tests.pages import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def hook(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(page):
    """What a page says, without its tags."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8"))))


def test_every_config_has_a_page_with_its_keys_and_comments(site):
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert (site / "reference/configs" / path.relative_to(ROOT / "conf").with_suffix(".html")).exists()
    words = text_of(site / "reference/configs/pretrain.html")
    comment = "also saved so often between validations: a kill loses no more work; null: never"
    assert f"save_every_minutes 10 {comment}" in words
    assert "trainer.accumulate_grad_batches 1" in words
    assert "here spans stay whole" in words  # the second line of a comment
    assert "What to count." in text_of(site / "reference/configs/evaluate.html")  # a comment of its own


def test_keys_of_a_config():
    text = (
        "# Of all.\n"
        "model:            # the model\n"
        "  size: 3         # of it; a value\n"
        "                  # with two lines\n"
        '  name: "a # b"\n'
        "  spans: {prob: 0.5, length: 2}  # of masks\n"
        "  list:\n"
        "    - one         # not a comment of the key\n"
    )
    pages = hook("config_pages")
    known = list(pages.keys(text))
    assert [(key.path, key.value, key.comment) for key in known] == [
        ("model", "", "the model"),
        ("model.size", "3", "of it; a value with two lines"),
        ("model.name", '"a # b"', ""),
        ("model.spans", "{prob: 0.5, length: 2}", "of masks"),
        ("model.list", "- one", ""),
    ]
    assert [words for _, words in pages.remarks(text, known)] == ["Of all."]


def test_public_names_are_in_the_reference(site):
    words = text_of(site / "reference/api/models.html")
    assert "SpeechLMModel" in words
    assert "extract_features" in words
    assert ":class:" not in words


def test_files_that_pages_link_to_are_in_the_site(site):
    page = (site / "getting-started.html").read_text(encoding="utf-8")
    assert 'href="benchmarks/real_speech.html"' in page
    assert 'href="repository/benchmarks/real_speech.csv"' in page
    assert (site / "repository/benchmarks/real_speech.csv").read_bytes() == (
        ROOT / "benchmarks/real_speech.csv"
    ).read_bytes()
    assert (site / "pictures/system.svg").exists()


def test_nothing_is_fetched_by_a_reader(site):
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"?(https?:[^\s\">]*)", page.read_text("utf-8"))
        assert not fetched, page


def test_a_link_that_leads_nowhere_is_an_error(tmp_path, caplog):
    links = ["../benchmarks/nothing.csv", "nothing.md", "page.md#nothing", "../conf/nothing.yaml"]
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "page.md").write_text(
        "# A page\n\n[fine](../README.md)" + "".join(f"\n[a link]({link})" for link in links)
    )
    folders = {"docs_dir": str(docs), "site_dir": str(tmp_path / "site")}
    hooks = ["docs/hooks/repository_pages.py"]  # which knows links; the others make the reference, which takes long
    config = load_config(str(ROOT / "mkdocs.yml"), **folders, hooks=hooks, strict=True)
    config.nav, config.exclude_docs = [{"A page": "page.md"}], None
    with caplog.at_level("WARNING", logger="mkdocs"), pytest.raises(Abort):
        build(config)
    messages = [record.getMessage() for record in caplog.records if "page.md" in record.getMessage()]
    for link in links:
        assert any(link in message for message in messages), link
    assert not any("'../README.md'" in message for message in messages)


def test_pictures_are_those_of_the_program(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs/pictures/draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    monkeypatch.setattr(draw, "HERE", tmp_path)
    for name in (path.stem for path in (ROOT / "docs/pictures").glob("*.svg")):
        getattr(draw, name)()
        assert (tmp_path / f"{name}.svg").read_bytes() == (ROOT / f"docs/pictures/{name}.svg").read_bytes()

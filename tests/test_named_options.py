"""Options that messages, docstrings, comments and documents name as ``key=value`` are there, as one types them."""

import ast
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
GROUPS = {folder.name: {path.stem for path in folder.glob("*.yaml")} for folder in CONF.iterdir() if folder.is_dir()}

OPTION = re.compile(r"(?<![\w./$+-])([a-z_][\w.@]*)=(?=[^\s=])(\w*)")
NOT_OPTIONS = re.compile(r"\w\([^()]*\)|<[a-z][^>]*|--\w+ \w+=\S+")
"""Calls in examples of Python, HTML, and flags of other programs. With ``+`` before it, a key is a new one."""

PLACEHOLDERS = {"verbose", "key", "hydra.run.dir", "hydra.output_subdir", "hydra.job.chdir"}
OTHERS_FILES = {"hubconf.py", "run_downstream.py", "libriphone.yaml"}  # s3prl's
OTHERS_FILES |= {"model_config.yaml", "config.yaml", "xx.yaml"}
"""NeMo's, fairseq's, and one that a user may write."""


def keys(config: dict, above: str = ""):
    """All keys of a config, those inside others with dots."""
    for name, value in config.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from keys(value, f"{above}{name}.")


@pytest.fixture(scope="module")
def known() -> set[str]:
    """Keys that some command has: those of all files, where the defaults of some config bring them."""
    texts = {path: path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml")}
    places = {group: set() for group in GROUPS}
    for text in texts.values():
        for group, place in re.findall(r"(\w+)(?:/\w+)?@([\w.]+)", f"\n{text}".partition("\ndefaults:")[2]):
            places.get(group, set()).add(f"{place}.")
    found = set()
    for path, text in texts.items():
        own = "" if "\n# @package _global_" in f"\n{text}" else f"{path.parent.name}."
        config = OmegaConf.to_container(OmegaConf.load(path))
        for above in places[path.parent.name] | {own} if path.parent != CONF else [""]:
            found |= set(keys(config, above))
    return found


def unknown_options(text: str, known: set[str]) -> list[str]:
    """The options that a text names and no command has; of config groups, also members that are not there."""
    wrong = []
    for key, value in OPTION.findall(NOT_OPTIONS.sub("", text)):
        group = key.partition("@")[0]
        there = not value or value in GROUPS[group] if group in GROUPS else key in known | PLACEHOLDERS
        if not there:
            wrong.append(f"{key}={value}")
    return wrong


def texts(path: Path):
    """(line, text) of what a file says to people: strings of Python, comments of configs, all of a document."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.lineno, node.value
    else:
        for number, line in enumerate(content.splitlines(), start=1):
            yield number, line.partition("#")[2] if path.suffix == ".yaml" else line


def all_texts():
    """(place, text) of all that we say."""
    for pattern in ("nemo_speechlm/**/*.py", "examples/*.py", "conf/**/*.yaml", "docs/**/*.md", "README.md"):
        for path in sorted(ROOT.glob(pattern)):
            for number, text in texts(path):
                yield f"{path.relative_to(ROOT)}:{number}", text


def test_options_that_are_named_are_there(known):
    wrong = [f"{place}: {option}" for place, text in all_texts() for option in unknown_options(text, known)]
    assert not wrong, "\n".join(wrong)


def test_what_is_not_there_is_found(known):
    text = "(tokenizer=sphinx), `speech_tokenizer=sphinx`, reuse_ctc_head=false; model.reuse_ctc_head=false seed=1"
    assert unknown_options(text, known) == ["tokenizer=sphinx", "speech_tokenizer=sphinx", "reuse_ctc_head=false"]
    assert not unknown_options("ErrorCounts(insertions=1, deletions=2) text_tokenizer@phone_tokenizer=espeak", known)


def test_files_that_are_named_are_there():
    """Of ours: modules, commands and configs."""
    there = {path.name for path in ROOT.glob("*.py")} | OTHERS_FILES
    for folder in ("conf", "docs", "examples", "nemo_speechlm", "benchmarks", "docker", "tests"):
        there |= {path.name for path in (ROOT / folder).rglob("*.*")}
    named = re.compile(r"(?<![\w*])\w+\.(?:py|yaml)\b")
    wrong = [f"{place}: {name}" for place, text in all_texts() for name in named.findall(text) if name not in there]
    assert not wrong, "\n".join(wrong)

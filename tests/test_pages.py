"""Every command that a page shows exists, with the options that the page gives it."""

import re
import shlex
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.pages import PAGES, ROOT, blocks, command_lines, mode

SHELL = [block for path in PAGES for block in blocks(path) if block.language == "bash"]
COMMANDS = [
    (f"{block.page}:{block.line}", *found.groups())
    for block in SHELL
    for line in command_lines(block.code)
    if (found := re.match(r"(?:\S*python|torchrun .*?) examples/(\w+)\.py(?: (.*))?$", line))
]
MODES = (
    r"run|run with LONG_TESTS=1, otherwise their options are checked: .+|options checked: .+|run by (tests/\S+\.py)"
)
OPTION = re.compile(r"^([\w.]+)=")


def groups(path):
    """The config groups from which a config is put together, with those of their members."""
    for entry in OmegaConf.to_container(OmegaConf.load(path)).get("defaults", []):
        inherited = ROOT / "conf" / f"{entry}.yaml" if isinstance(entry, str) else None
        if inherited is not None and inherited.exists():
            yield from groups(inherited)
        if isinstance(entry, dict):
            group = next(iter(entry)).lstrip("/")
            yield group
            for member in (ROOT / "conf" / group).glob("*.yaml"):
                yield from groups(member)


@cache
def composed(config_name, *choices):
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base=None):
        return compose(config_name=config_name, overrides=list(choices))


def test_pages_have_commands():
    assert len({block.page for block in SHELL}) > 15
    assert len(COMMANDS) > 60


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_block_is_tested_or_says_why_not(path):
    text = path.read_text(encoding="utf-8")
    code = [block for block in blocks(path) if block.language in ("bash", "python")]
    assert not [block.line for block in blocks(path) if not block.language], "blocks need a language"
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"^(?: {4}|\t).*examples/\w+\.py.*$", outside, flags=re.MULTILINE), (
        "commands stand in ```bash"
    )
    said = mode(path)
    if any(block.reason is None for block in code):
        assert said, "the page does not say how its commands are tested: see tests/pages.py"
    if said:
        found = re.fullmatch(MODES, said)
        assert found, said
        assert found[1] is None or (ROOT / found[1]).exists(), said


def test_runs_have_names_of_their_own():
    """Pages that are run use one folder: a run of a name that was trained already is continued, or refused."""
    seen = {}
    for path in PAGES:
        if not re.match(r"run(?! by)", mode(path) or ""):
            continue
        for block in blocks(path):
            for line in command_lines(block.code) if (block.language, block.reason) == ("bash", None) else ():
                trains = re.search(r"_(pretrain|finetune_\w+)\.py", line)
                found = re.search(r" name=(\S+)", line) or re.search(r" --config-name (\S+)", line)
                if trains and found:
                    before = seen.setdefault(found[1], line)
                    assert before == line, f"{block.page}:{block.line}: give it a name=..., {found[1]} is taken"


def test_the_table_of_commands_has_them_all():
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    table = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`(\w+)\.py`", table)) == {path.stem for path in (ROOT / "examples").glob("*.py")}


def test_a_block_without_a_marker_is_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    monkeypatch.setattr("tests.pages.ROOT", tmp_path)
    for text in ("```bash\nls\n```\n", "<!-- commands: perhaps -->\n```bash\nls\n```\n", "    python examples/a.py\n"):
        page.write_text(text)
        with pytest.raises(AssertionError):
            test_every_block_is_tested_or_says_why_not(page)
    page.write_text("<!-- not run: it needs a GPU -->\n```bash\nls\n```\n")
    test_every_block_is_tested_or_says_why_not(page)


@pytest.mark.parametrize(("place", "example", "arguments"), COMMANDS, ids=[f"{c[0]}-{c[1]}" for c in COMMANDS])
def test_options_are_there(place, example, arguments):
    path = ROOT / "examples" / f"{example}.py"
    assert path.exists(), f"{place}: there is no {path.name}"
    source = path.read_text(encoding="utf-8")
    words = shlex.split(arguments or "")
    name = re.search(r'@command\("(\w+)"', source)
    if name is None:  # argparse
        for option in words:
            assert not option.startswith("--") or f'"{option}"' in source, f"{place}: {example}.py has no {option}"
        return
    given = re.search(r"--config-name (\w+)", arguments or "")
    config_name = (given or name)[1]
    known = set(groups(ROOT / "conf" / f"{config_name}.yaml"))
    options = [word for word in words if OPTION.match(word) or "@" in word]
    choices = [word for word in options if word.split("=")[0].split("@")[0] in known]
    config = composed(config_name, *choices)
    for word in options:
        if word in choices:
            continue
        parent, _, key = word.split("=")[0].rpartition(".")
        table = OmegaConf.select(config, parent) if parent else config
        assert key in list(table), f"{place}: {config_name}.yaml has no {word.split('=')[0]}"

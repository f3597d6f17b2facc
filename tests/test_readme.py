"""The README's commands exist, with the options that it names."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent
TEXT = "".join(
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/russian.md", "docs/recognition_without_transcripts.md")
)
COMMANDS = re.findall(r"python examples/(\w+)\.py ((?:[^\n]*\\\n)*[^\n]*)", TEXT)


def groups(path):
    """The config groups from which a config is put together, with those of their members."""
    for entry in OmegaConf.to_container(OmegaConf.load(path)).get("defaults", []):
        if isinstance(entry, dict):
            group = next(iter(entry)).lstrip("/")
            yield group
            for member in (ROOT / "conf" / group).glob("*.yaml"):
                yield from groups(member)


def test_readme_has_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize(("example", "arguments"), COMMANDS, ids=[f"{i}-{c[0]}" for i, c in enumerate(COMMANDS)])
def test_command(example, arguments):
    source = (ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8")
    found = re.search(r"--config-name (\w+)", arguments) or re.search(r'@command\("(\w+)"\)', source)
    if found is None:  # argparse
        for option in re.findall(r"--[\w-]+", arguments):
            assert f'"{option}"' in source, f"{example}.py has no {option}"
        return
    known = set(groups(ROOT / "conf" / f"{found[1]}.yaml"))
    choices = [choice for choice in re.findall(r"(?<!\S)\w+=\w+", arguments) if choice.split("=")[0] in known]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base=None):
        config = compose(config_name=found[1], overrides=choices)
    for key in re.findall(r"([\w.]+)=\S", arguments):
        if any(choice.startswith(f"{key}=") for choice in choices):
            continue
        parent, _, name = key.rpartition(".")
        table = OmegaConf.select(config, parent) if parent else config
        assert name in list(table), f"{found[1]}.yaml has no {key}"

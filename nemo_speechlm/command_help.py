"""What a command says of its options: the text of ``--help``, and what is wrong with options that it does not know."""

import difflib
import functools
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.program import CONF, as_typed, shown

CONFIG_NAME = ("--config-name", "-cn")
CONFIG_PATH = ("--config-path", "-cp")
CONFIG_DIR = ("--config-dir", "-cd")


def help_text(doc: str, config_name: str) -> str:
    """The text of ``--help``: a command's docstring, its config, and what this inherits.

    Args:
        doc: of the command's module.
        config_name: of the command's own config, for which ``--config-name`` may name another.
    """
    path = _config_file(config_name)
    if path is None:
        return f"{as_typed(doc.strip())}\n\n{_no_config(config_name)}"
    usage = f"usage: {shown()} [--config-name NAME] [--config-dir FOLDER] [key=value ...] [verbose=true]"
    common = "--config-dir names a folder with recipes of your own; verbose=true shows what the libraries log."
    options = f"Options and their defaults ({path}; ??? must be given):\n\n{path.read_text()}"
    inherited = "".join(f"\nFrom {base}:\n\n{base.read_text()}" for base in _inherited(path))
    return f"{usage}\n\n{as_typed(doc.strip())}\n\n{common}\n\n{options}{inherited}"


def check_recipe_file(config_name: str) -> None:
    """Check that the recipe is there, before Hydra looks for it.

    Raises:
        SpeechLMError: if it is not.
        InputError: if ``--config-dir`` names no folder, or a file in it has the name of one of ours, which Hydra would
            take in its place.
    """
    own = _option(*CONFIG_DIR)
    if own is not None:
        if not Path(own).is_dir():
            raise InputError("no such folder; --config-dir names one with recipes of your own", own)
        for path in sorted(Path(own).rglob("*.yaml")):
            if (_main_folder() / path.relative_to(own)).exists():
                raise InputError(
                    "has the name of a recipe of nemo_speechlm, which would be used instead; rename it", path
                )
    if _config_file(config_name) is None:
        raise SpeechLMError(_no_config(config_name))


def explain(error: Exception, config_name: str) -> str:
    """What Hydra has against the options, in a line, with what is near an option that is not there."""
    text = str(error)
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown is not None:
        key = unknown[1]
        names = sorted(set(_known_keys(config_name)))
        near = difflib.get_close_matches(key, names, 2) or [name for name in names if name.endswith(f".{key}")][:2]
        hint = f"did you mean {' or '.join(near)}?" if near else "--help lists those there are"
        return f"there is no option {key!r}; {hint} (+{key}=... adds a key that is not in the config)"
    missing = re.search(
        r"Could not find '(\w+)/([^']+)'\n+Available options in[^\n]*\n(.*?)\nConfig search", text, re.DOTALL
    )
    if missing is not None:
        return f"there is no {missing[1]}={missing[2]}; there are: {', '.join(missing[3].split())}"
    choose = re.match(r"You must specify '(\w+)'.*?Available options:\n(.*)", text, re.DOTALL)
    if choose is not None:
        return f"not given: {choose[1]}; add {choose[1]}=... There are: {', '.join(choose[2].split())}"
    lines = [line.strip() for line in text.partition("Config search path:")[0].splitlines()]
    message = "; ".join(line for line in lines if line and not line.startswith("See https"))
    if isinstance(error, OverrideParseException):
        reason = message.removeprefix(f"Error parsing override {error.override!r}; ")
        key, _, value = error.override.partition("=")
        quoted = f"{key}='{value}'" if '"' in value else f'{key}="{value}"'
        plain = key and value and "'" not in value and value[0] not in '[{"'
        way_out = f"; a value with other characters needs quotes of its own: {shlex.quote(quoted)}" if plain else ""
        return f"{error.override!r} is not of the form key=value: {reason}{way_out}"
    return message


def check_kinds(cfg: DictConfig, config_name: str, overrides: Sequence[str]) -> None:
    """Check that values given on the command line are of the kind that the config has: ``overwrite=maybe`` is not.

    Args:
        cfg: with the values.
        config_name: of the command's own config.
        overrides: as they were given.

    Raises:
        SpeechLMError: at the first that is not, with what was found and expected.
    """
    given = [found[1] for found in map(re.compile(r"([\w.]+)=").match, overrides) if found is not None]
    if not given:
        return
    defaults: dict[str, Any] = {}
    for key, default in _known_options(config_name):
        if defaults.get(key) is None:
            defaults[key] = default
    for key in given:
        value = OmegaConf.select(cfg, key)
        expected = _expected(key, defaults.get(key), value)
        if expected is not None:
            shown = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            raise SpeechLMError(f"{key} is {shown!r}, expected {expected}")


_NUMBERS_TOO = ("channel", "layers", "device", "precision")
"""Options whose default is a word, and which may be a number."""


def _expected(key: str, default: Any, value: Any) -> str | None:
    """What an option must be whose default is this; None if the value is so, or may be anything."""
    own = "." not in key  # the others are handed on: to models, to Lightning
    if isinstance(default, bool):
        return None if isinstance(value, bool) or OmegaConf.is_config(value) else "true or false"
    if isinstance(default, int | float):
        wrong = isinstance(value, bool) or OmegaConf.is_dict(value)
        wrong = wrong or (isinstance(value, str) and not key.startswith("trainer."))
        return ("a whole number" if isinstance(default, int) else "a number") if wrong else None
    if isinstance(default, dict):
        return (
            None if value is None or isinstance(value, dict | DictConfig) else f"a mapping, with keys such as {key}.x"
        )
    if isinstance(default, list):
        listed = isinstance(value, list | tuple | ListConfig)  # a resolver's value is a plain list
        return None if value is None or listed else f"a list: {key}=[...]"
    if own and default == "???":
        paths = list(value) if OmegaConf.is_list(value) else [value]
        good = paths and all(isinstance(path, str) and path for path in paths)
        return None if good else f"a path (one that looks like a number in two pairs of quotes: {key}='\"5\"')"
    if own and isinstance(default, str) and key not in _NUMBERS_TOO:
        return "a text" if isinstance(value, int | float) else None
    return None


def _known_keys(config_name: str) -> Iterator[str]:
    return (key for key, _ in _known_options(config_name))


def _known_options(config_name: str) -> Iterator[tuple[str, Any]]:
    """(key, default) of a command's config and of those that it inherits from, nearest first."""
    path = _config_file(config_name)
    for file in (path, *_inherited(path)) if path is not None else ():
        package = re.search(r"^# @package (\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        group = "" if file.parent in _folders() or (package and package[1] == "_global_") else f"{file.parent.name}."
        yield from _keys(_parsed(file, file.stat().st_mtime_ns), group)


@functools.lru_cache(maxsize=256)
def _parsed(path: Path, changed: int) -> Any:
    """What a YAML file holds that was ``changed`` then; read once. Not resolved: a choice to be made is ???."""
    return OmegaConf.to_container(OmegaConf.load(path))


def _keys(config: Any, above: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items() if isinstance(config, dict) else ():
        if name != "defaults":
            yield f"{above}{name}", value
            yield from _keys(value, f"{above}{name}.")


def _main_folder() -> Path:
    return Path(_option(*CONFIG_PATH) or CONF)


def _folders() -> list[Path]:
    """Where Hydra looks for configs, first to last."""
    own = _option(*CONFIG_DIR)
    return [_main_folder(), *([Path(own)] if own is not None else [])]


def language_folders() -> list[Path]:
    """Where a language's file may be: among ours, and where ``--config-dir`` or ``--config-path`` say."""
    return [folder / "language" for folder in dict.fromkeys([CONF, *_folders()])]


def language_file(language: str, folders: Sequence[Path]) -> Path:
    """The first ``<language>.yaml`` in some folders.

    Raises:
        SpeechLMError: if there is none; it names those there are.
    """
    path = next((path for path in (folder / f"{language}.yaml" for folder in folders) if path.exists()), None)
    if path is None:
        known = ", ".join(sorted(path.stem for folder in folders for path in folder.glob("*.yaml")))
        raise SpeechLMError(f"there is no language {language!r}; there are {known}")
    return path


def _config_file(config_name: str) -> Path | None:
    name = (_option(*CONFIG_NAME) or config_name).removesuffix(".yaml")
    found = [folder / f"{name}.yaml" for folder in _folders() if (folder / f"{name}.yaml").exists()]
    return found[0] if found else None


def _no_config(config_name: str) -> str:
    name = (_option(*CONFIG_NAME) or config_name).removesuffix(".yaml")
    known = ", ".join(sorted(path.stem for folder in _folders() for path in folder.glob("*.yaml")))
    places = " or ".join(str(folder) for folder in _folders())
    return f"there is no config {name}.yaml in {places}; there are: {known}"


def _inherited(path: Path) -> list[Path]:
    """The configs that a config names in its ``defaults`` list, and those that these name."""
    found: list[Path] = []
    for entry in _parsed(path, path.stat().st_mtime_ns).get("defaults", []):
        if entry == "_self_":
            continue
        if isinstance(entry, str):
            bases = _named(path, entry.split("@")[0])
        else:  # a choice, {group: name}: the one that was made, or else all
            key, chosen = next(iter(entry.items()))
            group, _, package = str(key).removeprefix("override ").partition("@")
            option = f"{group.lstrip('/')}{'@' * bool(package)}{package}="
            given = (a.split("=", 1)[1] for a in sys.argv[1:] if a.startswith(option))
            bases = _named(path, f"{group}/{next(given, chosen if package else '*')}")
        for base in bases:
            if base not in found:
                found += [base, *(more for more in _inherited(base) if more not in found)]
    return found


def _named(path: Path, name: str) -> list[Path]:
    """The files of a name in a config's ``defaults``: below the config's folder, or with a slash from the top."""
    below = next((path.parent.relative_to(folder) for folder in _folders() if path.is_relative_to(folder)), Path())
    pattern = name.lstrip("/") if name.startswith("/") else (below / name).as_posix()
    return [base for folder in _folders() for base in sorted(folder.glob(f"{pattern}.yaml"))]


def _option(*names: str) -> str | None:
    for position, argument in enumerate(sys.argv[1:-1], start=1):
        if argument in names:
            return sys.argv[position + 1]
    for argument in sys.argv[1:]:
        for name in names:
            if argument.startswith(name + "="):
                return argument.split("=", 1)[1]
    return None

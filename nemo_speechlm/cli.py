"""What all our commands share: Hydra configs from ``conf/``, a --help that can be read, errors without tracebacks."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_speechlm.checks import check_whole
from nemo_speechlm.errors import SpeechLMError, Unfinished
from nemo_speechlm.locks import only_writer
from nemo_speechlm.program import CONF


def _alphabet(language: str) -> list[str]:
    """The characters of ``conf/language/<language>.yaml``, for ``model.labels=${alphabet:ru}``."""
    path = CONF / "language" / f"{language}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise SpeechLMError(f"no language {language!r} in {path.parent}; there are: {known}")
    return list(OmegaConf.load(path).characters)


OmegaConf.register_new_resolver("alphabet", _alphabet, replace=True)

_RUN_IN_PLACE = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]


Task = Callable[[DictConfig], None]


def command(config_name: str, makes: Sequence[str] = ()) -> Callable[[Task], Callable[[], None]]:
    """Decorate a function of a config so that it becomes a command with ``key=value`` options.

    The config is ``conf/<config_name>.yaml`` or what ``--config-name`` (and ``--config-path``) say. ``--help`` prints
    the calling module's docstring and the config's own text, so that a comment beside a key is its documentation.
    A :class:`SpeechLMError` ends the command with its message and status 1; so does a file that the system refuses,
    and an ``output`` that is a file which another key names. A task that ended before its end (:class:`Unfinished`)
    gives status 75, Ctrl-C 130; the same command goes on then.

    Args:
        config_name: of the config.
        makes: keys that name files which no other process may be making meanwhile. Commands whose processes work
            together (training) and those that make folders have none.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def run() -> None:
            if {"-h", "--help"} & set(sys.argv[1:]):
                print(_help(inspect.getmodule(task).__doc__ or "", config_name))  # type: ignore[union-attr]
                return
            if not _config_file(config_name).exists() and not _option("--config-path", "-cp", "--config-dir", "-cd"):
                print(f"error: {_no_config(config_name)}", file=sys.stderr)
                sys.exit(1)
            sys.argv[1:] = _arguments(sys.argv[1:])
            hydra.main(version_base=None, config_path=str(CONF), config_name=config_name)(guarded)()

        @functools.wraps(task)
        def guarded(cfg: DictConfig) -> None:
            try:
                missing = sorted(OmegaConf.missing_keys(cfg))
                if missing:
                    raise SpeechLMError(
                        f"not given: {', '.join(missing)}; add {missing[0]}=... (--help lists all options)"
                    )
                _refuse_own_input(cfg)
                with ExitStack() as held:
                    for key in makes:
                        if isinstance(cfg[key], str):
                            held.enter_context(only_writer(cfg[key]))
                    task(cfg)
            except Unfinished as pause:
                print(pause, file=sys.stderr)
                sys.exit(pause.status)
            except (SpeechLMError, OmegaConfBaseException) as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(1)
            except OSError as error:  # a folder that is a file, a disk that is full, ...: Python says which and why
                if error.filename is None or os.environ.get("HYDRA_FULL_ERROR"):
                    raise
                print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
                sys.exit(1)
            except KeyboardInterrupt:
                print("interrupted; run the same command again to go on", file=sys.stderr)
                sys.exit(130)

        return run

    return decorate


def _refuse_own_input(cfg: DictConfig) -> None:
    """Raise if ``output`` is a file that another key of the config names."""
    from nemo_speechlm.files import refuse_input_as_output  # JSON, gzip, digests: --help needs none of them

    values: Any = OmegaConf.to_container(cfg)
    output = values.pop("output", None)
    if isinstance(output, str):
        refuse_input_as_output([output], values)


def whole_numbers(cfg: DictConfig, *keys: str, least: int = 0) -> None:
    """Check that the values of keys are whole numbers (or null), so that ``workers=two`` is not an error deep inside.

    Raises:
        SpeechLMError: naming the key, what was found and what was expected.
    """
    for key in keys:
        value = OmegaConf.select(cfg, key)
        if value is not None:
            check_whole(key, value, least)


Chosen = TypeVar("Chosen")


def chosen(cfg: DictConfig, base: type[Chosen]) -> Chosen:
    """Instantiate the group's ``_target_`` from the config keys that match its fields.

    Args:
        cfg: of a command, with the group's keys among its own (``# @package _global_``).
        base: what the class must be one of; a dataclass.

    Raises:
        SpeechLMError: if there is no such class, or it is not a ``base``.
    """
    try:
        target = hydra.utils.get_class(cfg._target_)
    except Exception as error:  # of importing it
        raise SpeechLMError(f"_target_ is {cfg._target_!r}, which cannot be imported: {error}") from error
    if not issubclass(target, base):
        raise SpeechLMError(f"_target_ is {cfg._target_!r}, expected a {base.__name__}")
    values = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(values, dict)
    wanted = [field for field in fields(target) if field.init and field.name in values]  # type: ignore[arg-type]
    for field in wanted:
        if field.name == "language" and field.type in (str, "str"):  # all that it wants to know of it
            values["language"] = values["language"]["code"]
    return target(**{field.name: values[field.name] for field in wanted})


_WITH_VALUE = ("--config-name", "-cn", "--config-path", "-cp", "--config-dir", "-cd", "--cfg", "-c", "--package", "-p")


def _arguments(given: list[str]) -> list[str]:
    """The given arguments, flags first: Hydra wants overrides in one group. Users' overrides follow ours."""
    flags, overrides = [], []
    arguments = iter(given)
    for argument in arguments:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in _WITH_VALUE:
            flags.extend(islice(arguments, 1))
    return [*flags, *_RUN_IN_PLACE, *overrides]


def _config_file(config_name: str) -> Path:
    name = _option("--config-name", "-cn") or config_name
    return Path(_option("--config-path", "-cp") or CONF) / f"{name.removesuffix('.yaml')}.yaml"


def _no_config(config_name: str) -> str:
    path = _config_file(config_name)
    known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
    return f"there is no config {path}; there are: {known}"


def _help(doc: str, config_name: str) -> str:
    path = _config_file(config_name)
    if not path.exists():
        return f"{doc.strip()}\n\n{_no_config(config_name)}"
    usage = f"usage: python {sys.argv[0]} [--config-name NAME] [key=value ...]"
    options = f"Options and their defaults ({path}; ??? must be given):\n\n{path.read_text()}"
    inherited = "".join(f"\nFrom {base}:\n\n{base.read_text()}" for base in _inherited(path, path.parent))
    return f"{usage}\n\n{doc.strip()}\n\n{options}{inherited}"


def _inherited(path: Path, folder: Path) -> list[Path]:
    """The configs that a config names in its ``defaults`` list, and those that these name."""
    found: list[Path] = []
    # Not resolved: a choice that must still be made is ???.
    for entry in OmegaConf.to_container(OmegaConf.load(path)).get("defaults", []):  # type: ignore[union-attr]
        if entry == "_self_":
            continue
        if isinstance(entry, str):
            name = entry.split("@")[0]
            bases = [(folder if name.startswith("/") else path.parent) / f"{name.lstrip('/')}.yaml"]
        else:  # a choice, {group: name}: the one that was made, or else all
            key, chosen = next(iter(entry.items()))
            group, _, package = str(key).removeprefix("override ").partition("@")
            parent, group = (folder if group.startswith("/") else path.parent), group.lstrip("/")
            made = next(
                (a.split("=", 1)[1] for a in sys.argv[1:] if a.startswith(f"{group}=")), chosen if package else "*"
            )
            bases = sorted((parent / group).glob(f"{made}.yaml"))
        for base in bases:
            if base.exists() and base not in found:
                found += [base, *(more for more in _inherited(base, folder) if more not in found)]
    return found


def _option(*names: str) -> str | None:
    for position, argument in enumerate(sys.argv[1:-1], start=1):
        if argument in names:
            return sys.argv[position + 1]
    for argument in sys.argv[1:]:
        for name in names:
            if argument.startswith(name + "="):
                return argument.split("=", 1)[1]
    return None

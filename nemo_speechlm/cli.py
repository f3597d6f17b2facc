"""What all our commands share: Hydra configs from ``conf/``, a --help that can be read, errors without tracebacks."""

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from itertools import islice
from typing import Any, TypeVar

import hydra
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nemo_speechlm.checks import (
    PRECISIONS,
    check_choice,
    check_device,
    check_files,
    check_model_file,
    check_number,
    check_whole,
    is_hub_name,
)
from nemo_speechlm.command_help import (
    CONFIG_DIR,
    CONFIG_NAME,
    CONFIG_PATH,
    check_kinds,
    check_recipe_file,
    explain,
    help_text,
    language_file,
    language_folders,
)
from nemo_speechlm.errors import SpeechLMError, Unfinished, system_error
from nemo_speechlm.locks import only_writer
from nemo_speechlm.program import CONF
from nemo_speechlm.quiet import environment, quiet, verbose_by_environment


def _alphabet(language: str) -> list[str]:
    """The characters of ``language/<language>.yaml``, for ``model.labels=${alphabet:ru}``."""
    return list(OmegaConf.load(language_file(language, language_folders())).characters)


OmegaConf.register_new_resolver("alphabet", _alphabet, replace=True)

_RUN_IN_PLACE = [
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra.job.chdir=false",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
]


Task = Callable[[DictConfig], None]


def command(
    config_name: str, makes: Sequence[str] = (), models: Sequence[str] = ()
) -> Callable[[Task], Callable[[], None]]:
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
        models: what the key ``model`` may be besides a file.
    """

    def decorate(task: Task) -> Callable[[], None]:
        # While Hydra composes the config, it raises its errors instead of printing them with its own advice.
        began: list[bool] = []  # once the config is there
        composing = ExitStack()

        @functools.wraps(task)
        def run() -> None:
            if {"-h", "--help"} & set(sys.argv[1:]):
                _print_help(inspect.getmodule(task).__doc__ or "", config_name)  # type: ignore[union-attr]
                return
            try:
                check_recipe_file(config_name)
                verbose = _take_verbose()
                sys.argv[1:] = _arguments(sys.argv[1:])
                with quiet(verbose), _composed_once(sys.argv[1:]):
                    composing.enter_context(environment("HYDRA_FULL_ERROR", "1"))
                    hydra.main(version_base=None, config_path=str(CONF), config_name=config_name)(guarded)()
            except (HydraException, ValueError) as error:
                if began:  # of the task, where the user wants all of a traceback
                    raise
                print(f"error: {explain(error, config_name)}", file=sys.stderr)
                sys.exit(1)
            except SpeechLMError as error:
                print(f"error: {_in_a_line(error)}", file=sys.stderr)
                sys.exit(1)
            finally:
                composing.close()

        @functools.wraps(task)
        def guarded(cfg: DictConfig) -> None:
            composing.close()
            began.append(True)
            try:
                missing = sorted(OmegaConf.missing_keys(cfg))
                if missing:
                    raise SpeechLMError(
                        f"not given: {', '.join(missing)}; add {missing[0]}=... (--help lists all options)"
                    )
                check_kinds(cfg, config_name, HydraConfig.get().overrides.task)
                _refuse_replaced(cfg, HydraConfig.get().overrides.task)
                _refuse_own_input(cfg)
                _check_common(cfg, models)
                with ExitStack() as held:
                    for key in makes:
                        if isinstance(cfg[key], str):
                            held.enter_context(only_writer(cfg[key]))
                    task(cfg)
            except Unfinished as pause:
                print(pause, file=sys.stderr)
                sys.exit(pause.status)
            except (SpeechLMError, OmegaConfBaseException) as error:
                if verbose_by_environment():
                    traceback.print_exc()
                print(f"error: {_in_a_line(error)}", file=sys.stderr)
                sys.exit(1)
            except OSError as error:  # a folder that is a file, a disk that is full, ...: Python says why
                if os.environ.get("HYDRA_FULL_ERROR"):
                    raise
                if verbose_by_environment():
                    traceback.print_exc()
                print(f"error: {system_error(error)}", file=sys.stderr)
                sys.exit(1)
            except KeyboardInterrupt:
                print("interrupted; run the same command again to go on", file=sys.stderr)
                sys.exit(130)

        return run

    return decorate


@contextmanager
def _composed_once(arguments: Sequence[str]) -> Iterator[None]:
    """Keep Hydra from composing the config once more, only to find out whether it is to be run several times."""
    if any(argument.startswith(("hydra.mode=", "+hydra.mode=", "++hydra.mode=")) for argument in arguments):
        yield
        return
    get_mode = Hydra.get_mode
    Hydra.get_mode = lambda *_, **__: RunMode.RUN  # type: ignore[method-assign]
    try:
        yield
    finally:
        Hydra.get_mode = get_mode  # type: ignore[method-assign]


def _in_a_line(error: Exception) -> str:
    """An error's message; reasons that it lists line by line follow each other."""
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _print_help(doc: str, config_name: str) -> None:
    try:
        print(help_text(doc, config_name), flush=True)
    except BrokenPipeError:  # of "--help | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_common(cfg: DictConfig, models: Sequence[str]) -> None:
    """Check what can be checked of keys that many commands have, before a task imports what takes seconds."""
    if str(cfg.get("model")).endswith(".nemo"):
        check_model_file(cfg.model)
    for key in ("model", "manifest", "lm", "tune_on"):
        if isinstance(cfg.get(key), str) and not (key == "model" and (is_hub_name(cfg.model) or cfg.model in models)):
            check_files(cfg[key])
    if cfg.get("device") is not None:
        check_device(cfg.device)
    if cfg.get("precision") is not None:
        check_choice("precision", cfg.precision, PRECISIONS)
    for key in ("batch_duration", "batch_seconds"):
        if cfg.get(key) is not None:
            check_number(key, cfg[key], least=0)  # 0: utterances one by one
    whole_numbers(cfg, "num_workers")


_REPLACED = ("encoder", "preprocessor", "sample_rate")
"""Keys below ``model`` that fine-tuning takes from ``model.init_from_pretrained``."""


def _refuse_replaced(cfg: DictConfig, options: Sequence[str]) -> None:
    """Raise if an option changes what is taken from a pretraining file."""
    model = cfg.get("model")
    if not isinstance(model, DictConfig) or "encoder_overrides" not in model or not model.get("init_from_pretrained"):
        return
    for option in options:
        key = option.lstrip("+~").partition("=")[0]
        parent, _, name = key.partition(".")
        if parent == "model" and name.partition(".")[0] in _REPLACED:
            raise SpeechLMError(
                f"{key} is taken from model.init_from_pretrained, so it cannot be given beside it; "
                "model.encoder_overrides changes what fine-tuning may change in the encoder"
            )


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


def _take_verbose() -> bool:
    """Take ``verbose=`` out of the arguments: no config has it, so no fingerprint of a run does."""
    given = [argument for argument in sys.argv[1:] if argument.startswith("verbose=")]
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument not in given]
    values = {"true": True, "false": False}
    for argument in given:
        if argument.removeprefix("verbose=").lower() not in values:
            raise SpeechLMError(f"{argument}: expected true or false")
    return values[given[-1].removeprefix("verbose=").lower()] if given else verbose_by_environment()


_WITH_VALUE = (*CONFIG_NAME, *CONFIG_PATH, *CONFIG_DIR, "--cfg", "-c", "--package", "-p")


def _arguments(given: list[str]) -> list[str]:
    """The given arguments, flags first: Hydra wants overrides in one group. Users' overrides follow ours."""
    flags, overrides = [], []
    arguments = iter(given)
    for argument in arguments:
        if not argument.startswith("-"):
            if argument.startswith("="):
                raise SpeechLMError(f"{argument!r} is not of the form key=value: no key before the =")
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in _WITH_VALUE:
            flags.extend(islice(arguments, 1))
    return [*flags, *_RUN_IN_PLACE, *overrides]

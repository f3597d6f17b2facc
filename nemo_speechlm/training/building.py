"""Building what a recipe describes, with the key at fault where something cannot be built."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hydra.errors import InstantiationException
from nemo.core.optim import get_optimizer, parse_optimizer_args, prepare_lr_scheduler
from nemo.utils.exceptions import NeMoBaseException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from nemo_speechlm.errors import SpeechLMError, first_line
from nemo_speechlm.models.common import schedules  # noqa: F401  (registers TriStage)


@contextmanager
def blaming(key: str) -> Iterator[None]:
    """Turn a library's error about a value, raised inside the block, into a SpeechLMError that names the recipe's key.

    Args:
        key: the one that the values are below.

    Raises:
        SpeechLMError: for errors of types and values, and of classes that Hydra or NeMo will not make.
    """
    try:
        yield
    except InstantiationException as error:
        lines = str(error).splitlines()
        below = next((line.partition("full_key: ")[2] for line in lines if "full_key: " in line), "")
        raise SpeechLMError(f"{key}{'.' * bool(below)}{below}: {_innermost(error)}") from error
    except (TypeError, ValueError, NeMoBaseException) as error:
        raise SpeechLMError(f"{key}: {_innermost(error)}") from error


def _innermost(error: BaseException) -> str:
    """The first line of the error that all others come from."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = first_line(error) if str(error).strip() else _condition(error) or "it cannot be used"
    return text if isinstance(error, ValueError) else f"{text} ({type(error).__name__})"


def _condition(error: BaseException) -> str | None:
    """The condition of an assertion that says nothing else, as its source has it; None if there is none."""
    if not isinstance(error, AssertionError) or error.__traceback__ is None:
        return None
    frame = traceback.extract_tb(error.__traceback__)[-1]
    condition = re.match(r"assert (.*)", frame.line or "")
    return None if condition is None else f"{frame.name} expects {condition[1]}"


def check_optimizer(optim: DictConfig | None, max_steps: int) -> None:
    """Check a recipe's ``model.optim`` by building it for a single number, before the model is there.

    Args:
        optim: as NeMo takes it: ``name``, options of the optimizer, ``sched``.
        max_steps: of the training.

    Raises:
        SpeechLMError: if the optimizer or the schedule cannot be built, or refuses the first step.
    """
    if optim is None:
        raise SpeechLMError("model.optim is null, expected an optimizer, such as model.optim.name=adamw")
    options: dict[str, Any] = OmegaConf.to_container(optim, resolve=True)  # type: ignore[assignment]
    schedule = options.pop("sched", None)
    name = options.pop("name", None)
    if not isinstance(name, str):  # a _target_, which is built with the model
        return
    with blaming("model.optim"):
        make = get_optimizer(name, **parse_optimizer_args(name, options))
        optimizer = make([nn.Parameter(torch.zeros(1))])
    if schedule is not None:
        with blaming("model.optim.sched"):
            prepare_lr_scheduler(optimizer, {"max_steps": max(max_steps, 1), **schedule})

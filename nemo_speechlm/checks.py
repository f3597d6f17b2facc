"""Checks of options: a value of the wrong kind or size is named with what was expected, before anything is done."""

import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from nemo_speechlm.errors import InputError

PRECISIONS = ("float32", "bfloat16", "float16")
"""That trained models compute in."""


def check_whole(name: str, value: Any, least: int | None = 0) -> None:
    """Check that an option is a whole number; True and 2.0 are none.

    Args:
        name: the option's, for the message.
        value: what was given.
        least: smallest value allowed, None for any.

    Raises:
        InputError: if it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise InputError(
            f"{name} is {value!r}, expected a whole number{'' if least is None else f' of at least {least}'}"
        )


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number; True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_number(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Check that an option is a finite number within bounds.

    Args:
        name: the option's, for the message.
        value: what was given.
        least: smallest value allowed.
        most: largest value allowed.
        above: the value must be larger than this.
        below: the value must be smaller than this.

    Raises:
        InputError: if it is not.

    >>> check_number("share", 0.5, above=0, most=1)
    """
    fits = (
        is_number(value)
        and math.isfinite(value)
        and not (
            (least is not None and value < least)
            or (most is not None and value > most)
            or (above is not None and value <= above)
            or (below is not None and value >= below)
        )
    )
    if fits:
        return
    if least is not None and most is not None:
        bounds = f" from {least:g} to {most:g}"
    else:
        words = [
            f"{word} {bound:g}"
            for word, bound in (("of at least", least), ("above", above), ("at most", most), ("below", below))
            if bound is not None
        ]
        bounds = " " + " and ".join(words) if words else ""
    raise InputError(f"{name} is {value!r}, expected a number{bounds}")


def check_range(name: str, value: Any, least: float, most: float, noun: str, example: str) -> tuple[float, float]:
    """The two ends of a range, each a number from ``least`` to ``most``.

    Args:
        name: the option's, for the message.
        value: what was given.
        least: smallest value allowed.
        most: largest value allowed.
        noun: what an end is called.
        example: a right value.

    Raises:
        InputError: if it is not two numbers within bounds, the smaller one first.

    >>> check_range("volumes", [0.5, 2], 0.001, 1000, "factor", "[0.5, 2.0]")
    (0.5, 2.0)
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise InputError(f"{name} is {value!r}, expected the least and the greatest {noun}, such as {example}")
    for end in value:
        check_number(name, end, least, most)
    if value[0] > value[1]:
        raise InputError(f"{name} is {list(value)}, expected the smaller {noun} first")
    return float(value[0]), float(value[1])


def check_flag(name: str, value: Any) -> None:
    """Check that an option is true or false: 0, 1 and words are neither.

    Raises:
        InputError: if it is not.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}, expected true or false")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Check that an option is one of several words.

    Raises:
        InputError: if it is not.
    """
    if value not in choices:
        *others, last = choices
        raise InputError(f"{name} is {value!r}, expected {', '.join(others)}{' or ' if others else ''}{last}")


def check_device(value: Any) -> None:
    """Check that the option ``device`` is ``auto`` or what PyTorch calls a device, as far as one sees without PyTorch.

    Raises:
        InputError: if it is not.
    """
    if not re.fullmatch(r"auto|(cpu|cuda|mps|xpu|hpu)(:\d+)?", str(value)):
        raise InputError(f"device is {value!r}, expected auto, cpu, cuda, cuda:1, ...")


def is_hub_name(name: str) -> bool:
    """Whether a text is of the form ``user/name``, and no file or folder of this machine."""
    form = re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", name) is not None
    return form and Path(name).suffix not in _FILES and not Path(name).exists()


_FILES = (".nemo", ".safetensors", ".pt", ".ckpt")
"""Endings of models' files, which no name on the hub has."""


def check_model_file(path: str | Path) -> None:
    """Check that a ``.nemo`` file is there, before anything is loaded to open it.

    Raises:
        InputError: if it is not there, or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("is a folder; expected the .nemo file of a model", path)
    if not path.exists():
        raise InputError("no such file; expected the .nemo file of a model", path)


def check_files(names: str) -> None:
    """Check that a file is there; names of several (``a.json,b.json``, ``a_{0..3}.json``) are left to their reader.

    Raises:
        InputError: if it is not.
    """
    if not re.search(r"[\[{(<,]|_OP_|://", names) and not Path(names).exists():
        raise InputError("no such file", names)

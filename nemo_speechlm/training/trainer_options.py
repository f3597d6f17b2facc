"""Kinds of Lightning's options, checked by its own signature: it takes many wrong values for true, or fails later."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from lightning.pytorch import Trainer

from nemo_speechlm.errors import SpeechLMError

_OWN_WORDS = ("precision", "plugins", "callbacks")
"""Options that Lightning checks itself, and says what there is."""

_WORDS = {int: "a whole number", float: "a number", str: "a text", NoneType: "null"}


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """Check that options of the trainer are of the kinds that Lightning's signature says.

    Those that it does not know are left to it.

    Args:
        options: plain values, and objects that Hydra has built.

    Raises:
        SpeechLMError: naming the key, what was found and what was expected.
    """
    parameters = inspect.signature(Trainer.__init__).parameters
    for key, value in options.items():
        if key not in parameters or key in _OWN_WORDS or parameters[key].annotation is inspect.Parameter.empty:
            continue
        kinds = list(_kinds(parameters[key].annotation))
        if not any(_is(value, kind) for kind in kinds):
            raise SpeechLMError(f"trainer.{key} is {value!r}, expected {_told(kinds)}")


def _kinds(annotation: Any) -> Iterator[Any]:
    """What an annotation lets a value be, each alone."""
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    else:
        yield annotation


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind. True is no number, 2 is one, and a text is no list."""
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is not None:  # List[int], Dict[str, int], Iterable[Logger]: what is in them, Lightning says
        return isinstance(value, get_origin(kind)) and not isinstance(value, str)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (kind is float and isinstance(value, int))


def _told(kinds: list[Any]) -> str:
    """Kinds in words; a number that may be whole is a number."""
    words = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            words += [repr(each) for each in get_args(kind)]
        elif get_origin(kind) is not None:
            words.append("a mapping" if issubclass(get_origin(kind), Mapping) else "a list")
        elif kind is bool:
            words += ["true", "false"]
        elif kind in _WORDS:
            words.append(_WORDS[kind])
        elif kind is not Path:  # which is given as a text
            words.append(f"a mapping with _target_ ({kind.__name__})")
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last

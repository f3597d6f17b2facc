"""What a pickle held, without the objects of fairseq's and omegaconf's that are containers of plain values."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading.pickle_values import Name, PickledObject
from nemo_speechlm.interop.reading.safe_pickle import allowed_work

_DEEPEST = 100


class LateTensor:
    """A tensor of the older format, whose storages follow behind the pickle."""

    def __init__(self, arguments: tuple[Any, ...]):
        self.arguments = arguments
        self.tensor: Tensor | None = None


def as_plain(value: Any, pickled: int) -> Any:
    """The same with ``Namespace`` and omegaconf's containers as dicts and lists, enumerations as their values.

    Args:
        value: what a pickle held.
        pickled: its size in bytes.

    Raises:
        InputError: if it is nested too deep, or holds its parts so often that whoever walks or prints it would take
            longer than a pickle of its size may: a list that holds a list twice, and so on sixty times, has 2^60 ends.
    """
    return _plain(value, {}, 0, allowed_work(pickled)).value


class _Plain(NamedTuple):
    """A value, what it weighs when all of it is written out, and how many containers it is deep."""

    value: Any
    weight: int
    height: int = 0


def _plain(value: Any, done: dict[int, _Plain], depth: int, heaviest: int) -> _Plain:
    if isinstance(value, str | bytes | bytearray):
        return _Plain(value, 1 + len(value) // 16)
    if not isinstance(value, dict | list | tuple | set | frozenset | PickledObject | LateTensor | Name):
        return _Plain(value, 1)
    if depth > _DEEPEST:
        raise InputError(f"damaged: containers nested more than {_DEEPEST} deep")
    # Shared values are converted once: lists of lists of the same list would otherwise take forever.
    if id(value) not in done:
        weight, height = 1, 0

        def inner(part: Any) -> Any:
            nonlocal weight, height
            found = _plain(part, done, depth + 1, heaviest)
            weight, height = weight + found.weight, max(height, found.height + 1)
            if height > _DEEPEST:
                raise InputError(f"damaged: containers nested more than {_DEEPEST} deep")
            if weight > heaviest:
                raise InputError("damaged: holds its values in one another more often than a file of its size may")
            return found.value

        plain = _simplify(value, inner)
        done[id(value)] = _Plain(plain, weight, height)
    return done[id(value)]


def _simplify(value: Any, plain: Callable[[Any], Any]) -> Any:
    if isinstance(value, LateTensor):
        return value.tensor
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(plain(item) for item in value)
    attributes = value.attributes
    if value.type == "argparse.Namespace":
        return plain(attributes)
    if value.type.startswith("omegaconf."):
        for content in ("_content", "_val"):
            if content in attributes:
                return plain(attributes[content])
    if value.type.startswith("pathlib."):
        return "/".join(str(part) for part in value.args)
    if value.state is None and len(value.args) == 1 and isinstance(value.args[0], str | int | float):
        return value.args[0]  # an enumeration's member is made from its value
    return PickledObject(value.type, plain(value.args), plain(attributes), plain(value.items), plain(value.entries))

"""What a pickle's operations make: plain values, checked before they are made, and inert objects."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nemo_speechlm.errors import InputError

_MAX_KEY = 10_000
"""Characters of a key."""
_MAX_KEY_PARTS = 16


@dataclass(eq=False)
class PickledObject:
    """What a pickle says about an object whose class is not imported.

    Attributes:
        type: module and name of the class.
        args: what it was called with.
        state: what its attributes were set from, None where they were not.
        items: what was appended to it.
        entries: what was put into it by key.
    """

    type: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, Any]:
        """The state, where it is a dict as usual."""
        state = self.state[0] if isinstance(self.state, tuple) and self.state else self.state
        return state if isinstance(state, dict) else {}


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names.

    Attributes:
        module: where Python would import it from.
        name: its name there.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


Call = Callable[..., Any]
SAFE_CALLS: dict[str, Call] = {
    "collections.OrderedDict": lambda pairs=(): OrderedDict(_pairs(pairs)),
    "collections.defaultdict": lambda factory=None: {},
    "builtins.set": lambda items=(): set(keys_of(items)),
    "builtins.frozenset": lambda items=(): frozenset(keys_of(items)),
    "builtins.dict": lambda pairs=(): dict(_pairs(pairs)),
    "builtins.list": lambda items=(): list(sequence_of(items)),
    "builtins.tuple": lambda items=(): tuple(sequence_of(items)),
    "builtins.complex": lambda real=0.0, imag=0.0: complex(float(real), float(imag)),
    "_codecs.encode": lambda text, encoding: _encode(text, encoding),
    "copyreg._reconstructor": lambda cls, *_: PickledObject(str(_name(cls))),
    "torch.Size": lambda items=(): tuple(sequence_of(items)),
    "torch.device": lambda *parts: ":".join(str(_label(part)) for part in parts),
}
"""What a pickle may call, by full name."""


def _key(value: Any) -> Any:
    # A key is hashed and compared each time it is used. Hashing a tuple that is nested a million deep would overflow
    # the C stack, too: one level will do. Numbers are such that few of them have the same hash.
    flat = value if isinstance(value, tuple) else (value,)
    plain = all(isinstance(part, str | bytes | int | float | Name | None) for part in flat)
    if len(flat) > _MAX_KEY_PARTS or not plain:
        raise InputError(f"its pickle has a {type(value).__name__} for a key: refused")
    for part in flat:
        if isinstance(part, str | bytes) and len(part) > _MAX_KEY:
            raise InputError(f"its pickle has a key of {len(part)} characters: refused")
        if isinstance(part, int) and part.bit_length() > 64:
            raise InputError(f"its pickle has a number of {part.bit_length()} bits for a key: refused")
    return value


def _name(value: Any) -> Name:
    if not isinstance(value, Name):
        raise InputError(f"its pickle has a {type(value).__name__} where a class is expected")
    return value


def _label(value: Any) -> str | int:
    if not isinstance(value, str | int):
        raise InputError(f"its pickle has a {type(value).__name__} where a name or a number is expected")
    return value


def keys_of(values: Any) -> list[Any]:
    """Values that may be keys, or members of a set.

    Raises:
        InputError: if one may not be, or it is no list.
    """
    return [_key(value) for value in sequence_of(values)]


def sequence_of(values: Any) -> list[Any] | tuple[Any, ...]:
    """The value, which must be a list or a tuple.

    Raises:
        InputError: if it is neither.
    """
    if not isinstance(values, list | tuple):
        raise InputError(f"its pickle has a {type(values).__name__} where a list is expected")
    return values


def mapping_of(values: list[Any]) -> dict[Any, Any]:
    """A dict of keys and values in turn.

    Raises:
        InputError: if a key may not be one, or has no value.
    """
    if len(values) % 2:
        raise InputError("its pickle is damaged (a key without a value)")
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _pairs(pairs: Any) -> list[tuple[Any, Any]]:
    if isinstance(pairs, dict):
        return list(pairs.items())
    found = []
    for pair in sequence_of(pairs):
        key, value = sequence_of(pair)
        found.append((_key(key), value))
    return found


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise InputError("its pickle has bytes in an unknown encoding")
    return text.encode(encoding)

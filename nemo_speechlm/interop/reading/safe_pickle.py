"""Pickles read as data. There is no unpickler here: a pickle's operations are carried out one by one on plain values.

A pickle is a program that names functions and calls them. Of the names that may occur, a few become plain values
(an ``OrderedDict``, a tensor that is rebuilt from its storage), those of the libraries that fairseq pickles become
:class:`PickledObject`, which holds what they were made with and is never imported. Any other name is refused.

Time and memory grow with the size of the file and no faster. An operation of few bytes can ask for much: a copy of a
long list, a hash of a long tuple, the text of a list that holds itself. So copies are counted against the bytes that
were read, keys and numbers have a longest length, and nothing here is turned into text but names.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading.pickle_values import (
    SAFE_CALLS,
    Call,
    Name,
    PickledObject,
    keys_of,
    mapping_of,
    sequence_of,
)
from nemo_speechlm.interop.reading.shown import shortened

INERT_MODULES = ("argparse", "enum", "fairseq", "omegaconf", "pathlib", "typing")
"""Top-level modules whose classes are read as inert data."""

_TYPES = frozenset("bool bytes complex dict float frozenset int list long object set str tuple unicode".split())
_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_MAX_MEMO = 1 << 26
_MAX_BITS = 1024
_MAX_LINE = 1 << 24
_MAX_NAME = 1000
_MARK = object()


def allowed_work(size: int) -> int:
    """How many values (or characters, sixteen for one) may be made of a pickle of ``size`` bytes by repeating them.

    What is meant to be read stays far below: in checkpoints of fairseq's, hardly anything occurs twice.
    """
    return 100_000 + 64 * size


class Reader:
    """Carries out the operations of one pickle.

    Args:
        calls: functions, by full name, for what the pickle may call beyond containers.
        names: values that names stand for.
        persistent: turns a persistent id (of a tensor's storage) into a value.

    Attributes:
        size: bytes of the pickle that was read last.
    """

    def __init__(
        self,
        calls: dict[str, Call] | None = None,
        names: Callable[[Name], Any] | None = None,
        persistent: Callable[[Any], Any] | None = None,
    ):
        self._calls = SAFE_CALLS | (calls or {})
        self._names = names or (lambda name: None)
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0
        self.size = 0

    def read(self, file: IO[bytes]) -> Any:
        """Read one pickle from where ``file`` stands up to its end.

        Raises:
            InputError: if it names what is not allowed, is damaged, or wants more than a file of its size may; the
                message does not name the file.
        """
        self._stack, self._memo, self._copied, self.size = [], {}, 0, 0
        bounded = _Bounded(file)
        start = file.tell()
        try:
            for opcode, argument, position in pickletools.genops(bounded):  # type: ignore[arg-type]  # it reads and tells, no more is asked
                self.size = (position or start) + 1 - start
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except InputError:
            raise
        except Exception as error:  # damage shows in many ways, and none of them is of interest
            raise InputError(f"its pickle is damaged ({type(error).__name__}: {shortened(str(error))})") from None
        raise InputError("its pickle is cut off")

    # One branch per operation of the pickle language; pickletools describes each.
    def _step(self, op: str, argument: Any) -> None:
        stack = self._stack
        if op in _PUSH:
            if isinstance(argument, int) and argument.bit_length() > _MAX_BITS:
                raise InputError(f"its pickle holds a whole number of {argument.bit_length()} bits: refused")
            stack.append(argument)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op]())
        elif op in ("PROTO", "FRAME"):
            pass
        elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._put(argument)
        elif op == "MEMOIZE":
            self._put(len(self._memo))
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif op in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(op[-1])
            if len(stack) < count:
                raise IndexError("stack underflow")
            stack[-count:] = [tuple(stack[-count:])]
        elif op == "TUPLE":
            items = self._to_mark()
            stack.append(tuple(items))
        elif op == "LIST":
            stack.append(self._to_mark())
        elif op == "DICT":
            stack.append(mapping_of(self._to_mark()))
        elif op == "FROZENSET":
            stack.append(frozenset(keys_of(self._to_mark())))
        elif op in ("APPEND", "SETITEM"):
            values = [stack.pop()] if op == "APPEND" else [stack.pop(), stack.pop()][::-1]
            self._extend(op, values)
        elif op in ("APPENDS", "SETITEMS", "ADDITEMS"):
            self._extend(op, self._to_mark())
        elif op == "POP":
            stack.pop()
        elif op == "POP_MARK":
            self._to_mark()
        elif op == "DUP":
            stack.append(stack[-1])
        else:
            self._object(op, argument)

    def _object(self, op: str, argument: Any) -> None:
        stack = self._stack
        if op == "GLOBAL":
            stack.append(self._resolve(*argument.split(" ", 1)))
        elif op == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(self._resolve(module, name))
        elif op in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        elif op == "NEWOBJ_EX":
            keywords, arguments, function = stack.pop(), stack.pop(), stack.pop()
            self._spend(arguments)
            stack.append(self._call(function, (*sequence_of(arguments), keywords) if keywords else arguments))
        elif op == "INST":
            arguments = tuple(self._to_mark())
            stack.append(self._call(self._resolve(*argument.split(" ", 1)), arguments))
        elif op == "OBJ":
            function, *arguments = self._to_mark()
            stack.append(self._call(function, tuple(arguments)))
        elif op == "BUILD":
            state, target = stack.pop(), stack[-1]
            if isinstance(target, PickledObject):
                target.state = state
            elif not isinstance(target, dict):  # attributes of a state dict are of no interest
                raise InputError(f"its pickle sets the state of a {type(target).__name__}: refused")
        elif op == "BINPERSID":
            if self._persistent is None:
                raise InputError("its pickle refers to storages where there are none")
            identity = stack.pop()
            self._spend(identity)
            stack.append(self._persistent(identity))
        else:
            raise InputError(f"its pickle uses {op}: refused")

    def _resolve(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise InputError("its pickle names a function by something else than a name: refused")
        if len(module) + len(name) > _MAX_NAME:
            raise InputError(f"its pickle names a function by {len(module) + len(name)} characters: refused")
        named = Name(_PYTHON2.get(module, module), name)
        value = self._names(named)
        if value is not None:
            return value
        known = str(named) in self._calls or (named.module == "builtins" and name in _TYPES)
        if known or module.split(".")[0] in INERT_MODULES:
            return named
        raise InputError(
            f"refers to {shortened(str(named))}, which is neither a tensor, a plain container nor a class of "
            "fairseq's: refused, for it could run code; nothing of it was run"
        )

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise InputError(f"its pickle calls a {type(function).__name__}: refused")
        call = self._calls.get(str(function))
        if call is not None:
            self._spend(arguments, *arguments)
            return call(*arguments)
        if function.module == "builtins":
            raise InputError(f"its pickle calls {function}: refused")
        return PickledObject(str(function), arguments)

    def _spend(self, *values: Any) -> None:
        """Count what is copied: a list of a file can be given to a function as often as it likes."""
        self._copied += sum(len(value) for value in values if isinstance(value, _SIZED))
        if self._copied > allowed_work(self.size):
            raise InputError("its pickle copies its values more often than one of its size may: refused")

    def _put(self, index: int) -> None:
        if not 0 <= index < _MAX_MEMO:
            raise InputError("its pickle is damaged (memo out of range)")
        self._memo[index] = self._stack[-1]

    def _to_mark(self) -> list[Any]:
        for position in range(len(self._stack) - 1, -1, -1):
            if self._stack[position] is _MARK:
                items = self._stack[position + 1 :]
                del self._stack[position:]
                return items
        raise InputError("its pickle is damaged (no mark)")

    def _extend(self, op: str, values: list[Any]) -> None:
        target = self._stack[-1]
        if op.startswith("APPEND"):
            if not isinstance(target, list | PickledObject):
                raise InputError(f"its pickle appends to a {type(target).__name__}: refused")
            (target.items if isinstance(target, PickledObject) else target).extend(values)
        elif op.startswith("SETITEM"):
            if not isinstance(target, dict | PickledObject):
                raise InputError(f"its pickle sets items of a {type(target).__name__}: refused")
            (target.entries if isinstance(target, PickledObject) else target).update(mapping_of(values))
        elif isinstance(target, set):
            target.update(keys_of(values))
        else:
            raise InputError(f"its pickle adds to a {type(target).__name__}: refused")


class _Bounded:
    """A file from which no more is asked for than there is: buffers are as large as what is asked for."""

    def __init__(self, file: IO[bytes]):
        self._file, self.tell = file, file.tell
        start = file.tell()
        self._end = file.seek(0, 2)
        file.seek(start)

    def read(self, count: int) -> bytes:
        return self._file.read(count if count < 4096 else min(count, self._end - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline(_MAX_LINE)


_SIZED = (list, tuple, dict, set, frozenset, str, bytes, bytearray)
_PUSH = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": lambda: _MARK,
}

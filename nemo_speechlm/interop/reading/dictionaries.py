"""Dictionaries of fairseq's: from a checkpoint's task state or from a file, to an inventory of units and to labels."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_speechlm.data.text.target_vocabulary import SPECIAL
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import iter_lines
from nemo_speechlm.interop.reading.pickle_values import PickledObject
from nemo_speechlm.interop.reading.shown import shown
from nemo_speechlm.units.inventory import DurationModel, UnitInventory

MASK = "<mask>"
NEVER = -1e4
"""The logit of a symbol that fairseq's dictionaries have and our model does not know."""

PHONE, SILENCE, NOISE = DurationModel(50, 25), DurationModel(140, 70), DurationModel(320, 110)
"""Durations that the released code draws for text, here in milliseconds (mean, standard deviation)."""


def symbols_of(value: Any) -> list[str] | None:
    """The symbols of a pickled ``Dictionary``, special ones included; None where it is something else."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, PickledObject) or not value.type.endswith(".Dictionary"):
        return None
    symbols = value.attributes.get("symbols")
    return symbols if isinstance(symbols, list) and all(isinstance(s, str) for s in symbols) else None


def read_dictionary(path: str | Path, size: int | None) -> list[str]:
    """Read a dictionary file (``SYMBOL COUNT`` a line) as fairseq does.

    Args:
        path: the file.
        size: how many classes the checkpoint has: decides whether ``<mask>`` is one of them. None: it is, as in
            pretraining.

    Returns:
        the symbols, those that fairseq puts in front included.

    Raises:
        InputError: if it is empty, a line is no entry, or the number of symbols is not ``size``.
    """
    symbols = list(SPECIAL)
    for number, line in iter_lines(path):
        symbol, _, count = line.rstrip("\n").rstrip(" ").rpartition(" ")
        count = count.removeprefix("#fairseq:overwrite").strip() or count
        if not symbol or not count.lstrip("-").isdigit():
            raise InputError(f"{line.strip()[:40]!r} is not an entry; expected SYMBOL COUNT", path, number)
        symbols.append(symbol)
    if len(symbols) == len(SPECIAL):
        raise InputError("the dictionary is empty; every label would be unknown", path)
    if MASK not in symbols and size in (None, len(symbols) + 1):
        symbols.append(MASK)
    if size not in (None, len(symbols)):
        raise InputError(
            f"{len(symbols)} symbols with {' '.join(SPECIAL)} and {MASK}; the checkpoint has {size} classes", path
        )
    return symbols


def inventory(symbols: Sequence[str], frame_rate: float, language: str = "en") -> UnitInventory:
    """The units of a released checkpoint, special symbols kept: a unit's id is its row in the weights."""
    own = [symbol for symbol in symbols if symbol not in (*SPECIAL, MASK)]
    if all(symbol.isdigit() for symbol in own):
        return UnitInventory("hidden", language, frame_rate, tuple(symbols))
    durations = {symbol: _duration(symbol, frame_rate) for symbol in own}
    silence = "SIL" if "SIL" in own else None
    return UnitInventory("phoneme", language, frame_rate, tuple(symbols), silence, durations)


def _duration(symbol: str, frame_rate: float) -> DurationModel:
    name = re.sub(r"_[BEIS]$", "", symbol)
    model = {"SIL": SILENCE, "SPN": NOISE}.get(name, PHONE)
    return DurationModel(model.mean * frame_rate / 1000, model.std * frame_rate / 1000)


def lowered(symbols: Sequence[str]) -> list[str]:
    """Symbols in lower case.

    Raises:
        InputError: if two become one.
    """
    before: dict[str, str] = {}
    for symbol in symbols:
        if before.setdefault(symbol.lower(), symbol) != symbol:
            raise InputError(
                f"--lowercase makes one of its symbols {before[symbol.lower()]!r} and {symbol!r}; leave it out"
            )
    return [symbol.lower() for symbol in symbols]


def labels(symbols: Sequence[str], lowercase: bool = False) -> list[str]:
    """Characters for our CTC models: without ``<s>``, which is the blank, and with ``|`` as the space.

    Raises:
        InputError: if the first is not ``<s>``, or two become one in lower case.
    """
    if symbols[0] != SPECIAL[0]:
        raise InputError(
            f"the first symbol of its characters is {shown(symbols[0])}, expected {SPECIAL[0]!r}, the CTC blank"
        )
    own = [" " if symbol == "|" else symbol for symbol in symbols[1:]]
    return lowered(own) if lowercase else own

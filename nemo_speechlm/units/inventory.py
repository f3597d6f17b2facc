"""The inventory of units: which discrete symbols speech and text share, and how long they last."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import atomic_write

UnitKind = Literal["phoneme", "hidden"]


class DurationModel(NamedTuple):
    """Mean and standard deviation of a unit's duration, in frames of the inventory's frame rate."""

    mean: float
    std: float


@dataclass(frozen=True)
class UnitInventory:
    """The ordered list of units that speech and text share (``units.json``).

    Args:
        kind: ``"phoneme"`` (SpeechLM-P) or ``"hidden"`` (SpeechLM-H).
        language: ISO 639-1 code, such as ``"en"``.
        frame_rate: frames per second in which durations are counted.
        symbols: the units; a unit's id is its position.
        silence: the symbol of silence, or None where there is none.
        durations: duration statistics per symbol; what text is expanded with when it carries no durations.
        made_by: of hidden units, which are called 0, 1, ... whatever they are: a digest of the centroids. None where
            it is not known.

    >>> inventory = UnitInventory("phoneme", "en", 100, ("SIL", "AH", "T"), silence="SIL")
    >>> inventory.encode(["T", "AH"])
    [2, 1]
    """

    kind: UnitKind
    language: str
    frame_rate: float
    symbols: tuple[str, ...]
    silence: str | None = None
    durations: Mapping[str, DurationModel] = field(default_factory=dict)
    made_by: str | None = None

    def __post_init__(self):
        self._check(None)

    def _check(self, path: str | Path | None) -> None:
        if self.kind not in ("phoneme", "hidden"):
            raise InputError(f"unit inventory: kind is {self.kind!r}, expected 'phoneme' or 'hidden'", path)
        if not self.frame_rate > 0:
            raise InputError(f"unit inventory: frame_rate is {self.frame_rate!r}, expected frames per second", path)
        if not self.symbols:
            raise InputError("unit inventory: no symbols; every label would be unknown", path)
        seen: dict[str, int] = {}
        for position, symbol in enumerate(self.symbols):
            if not isinstance(symbol, str) or not symbol or symbol.split() != [symbol]:
                raise InputError(f"unit inventory: symbol {position} is {symbol!r}, expected a word", path)
            if symbol in seen:
                raise InputError(f"unit inventory: symbol {symbol!r} at {seen[symbol]} and again at {position}", path)
            seen[symbol] = position
        if self.silence is not None and self.silence not in self.symbols:
            raise InputError(f"unit inventory: silence {self.silence!r} is not among its symbols", path)
        for symbol, (mean, std) in self.durations.items():
            if symbol not in seen:
                raise InputError(f"unit inventory: durations name {symbol!r}, which is not among its symbols", path)
            if not (mean > 0 and std >= 0):
                raise InputError(f"unit inventory: duration of {symbol!r} has mean {mean} and std {std}", path)

    def __len__(self) -> int:
        return len(self.symbols)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: position for position, symbol in enumerate(self.symbols)}

    def encode(
        self, symbols: Iterable[str | int], path: str | Path | None = None, line: int | None = None
    ) -> list[int]:
        """Turn symbols (or ids, which are checked) into ids; ``path`` and ``line`` are where they came from.

        Raises:
            InputError: at the first symbol that is not in the inventory, or id out of its range.
        """
        symbols = list(symbols)
        try:
            return list(map(self._ids.__getitem__, symbols))  # type: ignore[arg-type]
        except (KeyError, TypeError):  # there are ids among them, or something is wrong
            pass
        ids = []
        for position, symbol in enumerate(symbols):
            if isinstance(symbol, int) and not isinstance(symbol, bool):
                if not 0 <= symbol < len(self.symbols):
                    raise InputError(
                        f"unit {position} is id {symbol}, the inventory has {len(self.symbols)} units", path, line
                    )
                ids.append(symbol)
                continue
            found = self._ids.get(symbol) if isinstance(symbol, str) else None
            if found is None:
                raise InputError(
                    f"unit {position} is {symbol!r}, which is not among the {len(self.symbols)} units of the "
                    f"inventory ({', '.join(self.symbols[:5])}, ...); was it made with another inventory?",
                    path,
                    line,
                )
            ids.append(found)
        return ids

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Turn ids into symbols."""
        return [self.symbols[unit] for unit in ids]

    @property
    def digest(self) -> str:
        """Of the symbols and the silence (SHA-256); durations do not change it."""
        return hashlib.sha256(json.dumps([self.symbols, self.silence]).encode()).hexdigest()

    def with_durations(self, durations: Mapping[str, DurationModel]) -> "UnitInventory":
        """The same inventory with other duration statistics."""
        return replace(self, durations=durations)

    def check_maker(self, own: "UnitInventory", path: str | Path) -> None:
        """Raise if a tokenizer's ``own`` units have the names of these, which are in ``path``, but other centroids.

        Raises:
            InputError: if both inventories say what made them, and it is not the same.
        """
        if None not in (self.made_by, own.made_by) and self.made_by != own.made_by:
            raise InputError(
                f"its units are those of other centroids (digest {self.made_by}, the tokenizer's have {own.made_by}): "
                "the same names stand for other sounds; give another units file, and make all manifests anew with it",
                path,
            )

    def to_dict(self) -> dict[str, Any]:
        """The content of ``units.json``: plain values that configs and JSON can hold."""
        content: dict[str, Any] = {
            "kind": self.kind,
            "language": self.language,
            "frame_rate": self.frame_rate,
            "symbols": list(self.symbols),
            "silence": self.silence,
        }
        if self.durations:
            content["durations"] = {s: [round(d.mean, 4), round(d.std, 4)] for s, d in self.durations.items()}
        if self.made_by is not None:
            content["made_by"] = self.made_by
        return content

    def save(self, path: str | Path) -> None:
        """Write ``units.json``."""
        with atomic_write(path) as file:
            json.dump(self.to_dict(), file, ensure_ascii=False, indent=1)
            file.write("\n")

    @classmethod
    def load(cls, path: str | Path) -> "UnitInventory":
        """Read ``units.json``.

        Raises:
            InputError: where the file is missing, not JSON, or not a valid inventory.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the unit inventory: {error}", path) from error
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON: {error.msg}", path, error.lineno) from error
        return cls.from_dict(content, path)

    @classmethod
    def from_dict(cls, content: Any, path: str | Path | None = None) -> "UnitInventory":
        """Make an inventory of what :meth:`to_dict` returned; ``path`` is where it came from.

        Raises:
            InputError: where it is not a valid inventory.
        """
        if not isinstance(content, dict):
            raise InputError(f"unit inventory: expected a JSON object, found {type(content).__name__}", path)
        missing = [key for key in ("kind", "language", "frame_rate", "symbols") if key not in content]
        if missing:
            raise InputError(f"unit inventory: no key {', '.join(missing)}", path)
        if not isinstance(content["symbols"], list):
            raise InputError(f"unit inventory: symbols is {content['symbols']!r:.40}, expected a list", path)
        given = content.get("durations") or {}
        if not isinstance(given, dict):
            raise InputError(f"unit inventory: durations is {given!r:.40}, expected an object of symbols", path)
        try:
            durations = {s: DurationModel(*map(float, d)) for s, d in given.items()}
            frame_rate = float(content["frame_rate"])
        except (TypeError, ValueError) as error:
            raise InputError(f"unit inventory: {error}", path) from error
        try:
            return cls(
                content["kind"],
                content["language"],
                frame_rate,
                tuple(content["symbols"]),
                content.get("silence"),
                durations,
                content.get("made_by"),
            )
        except InputError as error:
            raise InputError(error.reason, path) from None

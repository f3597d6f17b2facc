"""Examples that cannot be used: left out where the config says so, listed once each, counted against a limit."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from nemo.utils import logging

from nemo_speechlm.checks import check_choice, check_number
from nemo_speechlm.data.pretraining.utterance_audio import base_of, name_of
from nemo_speechlm.data.waiting import Reading
from nemo_speechlm.errors import InputError
from nemo_speechlm.locks import only_writer

LIST_NAME = "bad_examples.jsonl"
"""In the run's folder: a line for each bad example, with ``manifest``, ``line`` and ``reason``."""

FEWEST_READ = 1000
"""The share of bad examples is taken of at least so many: one in the first batch says nothing."""

_TOLD = 10

_WAIT = 60.0
"""Seconds to wait for another process that writes to the list."""


class BadExample(NamedTuple):
    """An example that cannot be used.

    Attributes:
        manifest: the file that it stands in; its audio, for data that NeMo reads.
        line: its line there, counted from 1; None where it is not known.
        reason: what is wrong with it.
    """

    manifest: str
    line: int | None
    reason: str

    @classmethod
    def of(cls, error: InputError, example: str = "") -> "BadExample":
        """What an error says of an example (its name, for errors that do not say where)."""
        return cls(error.path or example, error.line, error.reason)

    def __str__(self) -> str:
        return f"{self.manifest}{'' if self.line is None else f':{self.line}'}: {self.reason}"

    def counted_by(self, rank: int, world: int) -> bool:
        """Whether a rank among ``world`` counts it, where all have read its line: one of them does, whichever."""
        return crc32(f"{self.manifest}:{self.line}".encode()) % world == rank


class BadRule(NamedTuple):
    """What a data config says of bad examples.

    Attributes:
        on_bad: ``"stop"``: the first one ends the run; ``"skip"``: they are left out.
        max_bad: share of the examples read so far (0 to 1) that may be bad.
    """

    on_bad: str = "stop"
    max_bad: float = 0.01

    @property
    def skips(self) -> bool:
        """Whether bad examples are left out."""
        return self.on_bad == "skip"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "BadRule":
        """That of a config.

        Raises:
            InputError: naming a key with a wrong value.
        """
        rule = cls(**{key: config[key] for key in cls._fields if config.get(key) is not None})
        check_choice("data config: on_bad", rule.on_bad, ("stop", "skip"))
        check_number("data config: max_bad", rule.max_bad, 0, 1)
        return rule


class Prepared(NamedTuple):
    """What came of the examples of a batch.

    Attributes:
        examples: those that can be used.
        content: what each of them holds.
        bad: the others.
        read: the number of both.
        lost: too few are left for a batch, so another one stands in.
    """

    examples: list[Any]
    content: list[Any]
    bad: tuple[BadExample, ...]
    read: int
    lost: bool


@dataclass(frozen=True)
class Preparation:
    """Prepares the examples of batches, one after the other.

    Args:
        skips: bad examples are left out, instead of raising what is wrong with them.
        reading: is told of each example, so that others see where it hangs.
    """

    skips: bool = False
    reading: Reading | None = None

    def of(self, examples: Iterable[Any], prepare: Callable[[Any], Any], fewest: int = 1) -> Prepared:
        """Prepare examples.

        Args:
            examples: each with an ``id``.
            prepare: makes what a batch needs of one.
            fewest: examples that a batch must have after bad ones were left out, if it had as many before.

        Raises:
            InputError: of ``prepare``, unless bad examples are left out.
        """
        everything = list(examples)
        kept, content, bad = [], [], []
        for example in everything:
            if self.reading is not None:
                self.reading.now(_name(example))
            try:
                content.append(prepare(example))
            except InputError as error:
                if not self.skips:
                    raise
                bad.append(BadExample.of(error, name_of(example)))
                continue
            kept.append(example)
        if self.reading is not None:
            self.reading.now("")
        lost = bool(bad) and len(kept) < min(fewest, len(everything))
        return Prepared(kept, content, tuple(bad), len(everything), lost)


def _name(example: Any) -> str:
    """Where an example stands, and the file of its audio."""
    recording = getattr(base_of(example), "recording", None)
    return name_of(example) if recording is None else f"{name_of(example)} ({recording.id})"


class BadCount:
    """Counts the bad examples of a loader in this process, and lists them.

    Processes and resumed runs share a list: each line is written once, in one piece.

    Args:
        rule: what the config says.
        folder: of the run, for the list; None: there is none.

    Attributes:
        read: examples so far, those in the batches of this process.
        bad: those among them that cannot be used.
    """

    def __init__(self, rule: BadRule = BadRule(), folder: str | Path | None = None):  # noqa: B008 - immutable
        self.rule = rule
        self.path = None if folder is None else Path(folder) / LIST_NAME
        self.read = 0
        self.bad = 0
        self._listed: set[tuple[Any, ...]] = set()
        self._end = 0  # of what has been read of the list
        self._told = 0

    def add(self, read: int, bad: Sequence[BadExample]) -> None:
        """Count examples that have been read, and those among them that are bad.

        Raises:
            InputError: if there are too many.
        """
        self.read += read
        self.bad += len(bad)
        if bad:
            self._tell(bad)
            self._check(self.read, self.bad, bad[-1])

    def survey(self, read: int, bad: Sequence[BadExample]) -> None:
        """List what was found bad before training begins; it is not counted, for it will be read again.

        Raises:
            InputError: if there are too many.
        """
        if bad:
            self._tell(bad)
            self._check(read, len(bad), bad[-1])

    def _check(self, read: int, bad: int, last: BadExample) -> None:
        if bad > self.rule.max_bad * max(read, FEWEST_READ):
            listed = "" if self.path is None else f"; they are listed in {self.path}"
            raise InputError(
                f"{bad} of {read} examples cannot be used, more than max_bad={self.rule.max_bad:g} of at least "
                f"{FEWEST_READ}{listed}. The last one: {last.reason}",
                last.manifest,
                last.line,
            )

    def _tell(self, bad: Sequence[BadExample]) -> None:
        new = [example for example in dict.fromkeys(bad) if _key(example) not in self._listed]
        if new:
            self._list(new)
        for example in new[: max(0, _TOLD - self._told)]:
            logging.warning(f"{example}; it is left out (on_bad=skip)")
        before, self._told = self._told, self._told + len(new)
        if before < _TOLD < self._told or len(str(self._told)) > len(str(before)) > 1:
            where = "" if self.path is None else f", listed in {self.path}"
            logging.warning(f"{self._told} different examples cannot be used so far{where}")

    def _list(self, examples: Sequence[BadExample]) -> None:
        """Append those that no process has listed yet."""
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with only_writer(self.path, wait=_WAIT):
                    broken = self._read_list()
                    new = [example for example in examples if _key(example) not in self._listed]
                    if new:
                        text = "".join(json.dumps(e._asdict(), ensure_ascii=False) + "\n" for e in new)
                        _append(self.path, ("\n" if broken else "") + text)
            except (OSError, InputError) as error:
                why = error.reason if isinstance(error, InputError) else error.strerror or error
                logging.warning(f"{self.path}: {why}; bad examples are not listed")
        self._listed.update(map(_key, examples))

    def _read_list(self) -> bool:
        """Read what others have listed meanwhile; returns whether the last line is not whole."""
        if self.path is None or not self.path.exists():
            return False
        with open(self.path, "rb") as file:
            file.seek(self._end)
            content = file.read()
        whole, _, rest = content.rpartition(b"\n")
        self._end += len(content) - len(rest)
        for line in whole.split(b"\n"):
            try:
                self._listed.add(_key(BadExample(**json.loads(line))))
            except (ValueError, TypeError):  # a line that was cut off by a kill
                continue
        return bool(rest)


def _key(example: BadExample) -> tuple[Any, ...]:
    """What is the same where an example is."""
    return example[:2] if example.line is not None else tuple(example)


def _append(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, text.encode("utf-8"))
    finally:
        os.close(descriptor)

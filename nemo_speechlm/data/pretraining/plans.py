"""Which lines make the batches of a chapter, found once for all processes of a machine.

Whoever makes batches has to go through all lines of a chapter, since lines of similar length make a batch. Each worker
of each rank would do that for the batches of all ranks, so that with many ranks it would do little else. A plan says
which lines each batch of a chapter has. The workers of a machine plan the next chapters in turns, and keep the plans
among its temporary files. With them a worker reads the lines of its own batches alone. The batches are the same.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from nemo.utils import logging

from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.pretraining.chapters import Line
from nemo_speechlm.errors import InputError, OutputError
from nemo_speechlm.files import atomic_write

AHEAD = 16
"""Chapters that are planned before they are needed."""

_KEPT = 4 * AHEAD
"""Plans of chapters that lie so far behind are removed."""

_UNUSED_DAYS = 7
"""Folders of other sequences that nothing was written to for so long are of runs that have ended."""

_PAUSE = 0.02
_PATIENCE = 60.0
"""Seconds to wait for another process to plan a chapter, before this one does it, too."""


class PlannedBatch(NamedTuple):
    """A batch.

    Attributes:
        lines: of its examples.
        bad: lines that were left out on the way to it, because they cannot be used.
    """

    lines: list[Line]
    bad: list[BadExample]


class Plan(NamedTuple):
    """A chapter.

    Attributes:
        batches: its batches; None where it cannot be planned: whoever needs it has to go through it, and meets the
            error that stands in the way.
        rest: lines that were left out behind the last batch.
    """

    batches: list[PlannedBatch] | None
    rest: list[BadExample]

    def dump(self) -> str:
        """As JSON."""
        batches = self.batches
        flat = None if batches is None else [[[n for line in lines for n in line], bad] for lines, bad in batches]
        return json.dumps([flat, self.rest])

    @classmethod
    def parse(cls, text: str) -> "Plan":
        """Of what :meth:`dump` made."""
        batches, rest = json.loads(text)
        planned = None if batches is None else [PlannedBatch(_pairs(lines), _bad(bad)) for lines, bad in batches]
        return cls(planned, _bad(rest))


def _pairs(numbers: list[int]) -> list[Line]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _bad(examples: list[list]) -> list[BadExample]:
    return [BadExample(*each) for each in examples]


def _remove_unused(folder: Path) -> None:
    """Remove the plans of runs that have ended."""
    for other in folder.iterdir():
        with suppress(FileNotFoundError):  # another process removes it, too
            if time.time() - other.stat().st_mtime > _UNUSED_DAYS * 24 * 3600:
                shutil.rmtree(other, ignore_errors=True)


class Plans:
    """The plans of a sequence of batches.

    Args:
        key: tells sequences apart; it must change with all that decides which lines a batch has.
        make: plans a chapter.
        folder: for the plans of all sequences; None is one of this user's among the temporary files.
    """

    def __init__(self, key: str, make: Callable[[int], Plan], folder: Path | None = None):
        self._make = make
        self._folder: Path | None = None
        folder = folder or Path(tempfile.gettempdir()) / f"nemo_speechlm-{os.getuid()}" / "plans"
        try:
            for each in (folder.parent, folder, folder / key):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.parent.stat().st_uid == os.getuid():  # whoever owns it decides what is in it
                self._folder = folder / key
                os.utime(self._folder)
                _remove_unused(folder)
        except OSError as error:
            self._give_up(error)

    def at_hand(self, chapter: int) -> Plan | None:
        """The plan of a chapter, if somebody has made it."""
        if self._folder is None:
            return None
        try:
            return Plan.parse(self._path(chapter).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # cut off when the machine went down
            self._path(chapter).unlink(missing_ok=True)
            return None
        except OSError as error:
            self._give_up(error)
            return None

    def of(self, chapter: int, passed: Callable[[], object] = lambda: None) -> Plan | None:
        """The plan of a chapter, made by this process or another; None where plans cannot be kept.

        Args:
            chapter: its number.
            passed: called now and then.
        """
        begin = time.monotonic()
        while (plan := self.at_hand(chapter)) is None and self._folder is not None:
            if time.monotonic() - begin > _PATIENCE:
                return self._make(chapter)
            if not self._make_one_of(range(chapter, chapter + AHEAD)):
                time.sleep(_PAUSE)
            passed()
        return plan

    def make_ahead(self, chapter: int) -> None:
        """Make a plan of one of the chapters behind a chapter, if there is one that nobody makes."""
        self._make_one_of(range(chapter + 1, chapter + AHEAD))

    def _path(self, chapter: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{chapter:08d}.json"

    def _make_one_of(self, chapters: Sequence[int]) -> bool:
        """Plan the first of these chapters that nobody has planned or is planning; whether there was one."""
        for chapter in chapters:
            if self._folder is None:
                return False
            path = self._path(chapter)
            try:
                if path.exists():
                    continue
                with atomic_write(path) as file:
                    file.write(self._make(chapter).dump())
                with suppress(OSError):
                    self._path(chapter - _KEPT).unlink()
            except InputError:  # another process is at it
                continue
            except (OSError, OutputError) as error:
                self._give_up(error)
                return False
            return True
        return False

    def _give_up(self, error: Exception) -> None:
        logging.warning(
            f"Plans of batches cannot be kept, each worker reads the lines of all ranks: {error}. They need some "
            f"30 MB in {tempfile.gettempdir()}; set TMPDIR to a folder of this machine that has room"
        )
        self._folder = None

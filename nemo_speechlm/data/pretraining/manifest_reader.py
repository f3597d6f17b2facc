"""What the readers of all streams share: the lines of manifests, in the order of a chapter or of the file."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
from lhotse.cut import Cut
from nemo.utils import logging

from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.manifests.indexed import IndexedManifest, IndexedManifests
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.pretraining.chapters import Chapters, Line, Order
from nemo_speechlm.data.pretraining.chapters import Cut as ChapterCut
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, parse_line

SURVEYED = 20_000
"""Lines of a manifest that are checked, and counted by the filters, before training starts; fewer of each where there
are more than four."""

_SURVEYED_LEAST = 20
"""The same of each of thousands of manifests."""

Key = tuple[int, ...]


class ManifestReader(ABC):
    """Iterates over examples made of manifest lines.

    The manifests are indexed, and ``SURVEYED`` of their lines are checked, when it is made: a wrong inventory or frame
    rate is an error at the start and not in the middle. The number of lines left out, by reason, is logged.

    Attributes:
        type: names it in an ``input_cfg``.
        options: keys of a config that a user may set.
        facts: keys that the model sets.
        chapter: the chapter that it iterates over, unless its order is finite.
        surveyed: lines that were looked at when it was made.
        given: the lines that it iterates over instead, each with its pass; None: those of the chapter.
        tells_lines: whether each example says which line it is, see :func:`line_of`.
    """

    type: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    facts: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[int] = 0  # part of the seeds: equally long manifests of two kinds have unrelated orders

    def __init__(self, manifests: Sequence[str], order: Order, whole_files: bool = False):
        self.order = order
        self.chapter = 0
        self.surveyed = 0
        self.given: Sequence[Line] | None = None
        self.tells_lines = False
        self._bad: list[BadExample] = []
        self._lines = IndexedManifests(expand_shards(manifests))
        self._arrange(whole_files)

    def _arrange(self, whole_files: bool) -> None:
        """Put the lines in order; a chapter has all lines of some files if ``whole_files``."""
        self._whole_files = whole_files
        self.cut_chapters()

    def cut_chapters(self, cut: ChapterCut | None = None) -> None:
        """Have chapters that are cut in this way: a resumed run has those that it began with."""
        files = [len(file) for file in self._lines.files]
        self._chapters = Chapters(files, (self.order.seed, self.kind), self.order.shuffle, self._whole_files, cut)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make it from an ``input_cfg`` item."""
        keys = (*cls.options, *cls.facts)
        order = Order(**{key: config[key] for key in ("seed", "shuffle", "skip_bad") if config.get(key) is not None})
        manifests = config["manifest_filepath"]
        return cls(
            [manifests] if isinstance(manifests, str) else list(manifests),
            order=order._replace(finite=bool(config.get("force_finite"))),
            **{key: config[key] for key in keys if config.get(key) is not None},
        )

    @abstractmethod
    def _example(self, record: Record, file: IndexedManifest, number: int, key: Key | None) -> Any:
        """The example of a record, or the reason (a string) why it is left out.

        ``key`` seeds what is random in it; if it is None, nothing need be.
        """

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Any]:
        for turn, rows in self._passes():
            for row in rows:
                example = self._read_or_skip(int(row), turn)
                if not isinstance(example, str | BadExample):
                    if self.tells_lines:
                        _tell_line(example, (turn, int(row)))
                    yield example

    def take_bad(self) -> list[BadExample]:
        """The lines left out since the last call, because they cannot be used."""
        found, self._bad = self._bad, []
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: samplers are copied to begin anew, and an index of lines may be large."""
        return self

    @property
    def files(self) -> list[IndexedManifest]:
        """The manifests that have lines."""
        return self._lines.files

    def _passes(self) -> Iterator[tuple[int, Iterable[int]]]:
        if self.given is not None:
            yield from ((turn, [row]) for turn, row in self.given)
        elif not self.order.finite:
            yield from self._chapters.rows(self.chapter)
        elif self.order.shuffle:
            yield 0, np.random.default_rng((self.order.seed, self.kind, 0)).permutation(len(self))
        else:
            yield 0, np.arange(len(self))

    def _read_or_skip(self, row: int, turn: int | None) -> Any:
        """The example of a row, why it is left out, or what is bad in it where such lines are left out."""
        try:
            return self._read(row, turn)
        except InputError as error:
            if not self.order.skip_bad or error.line is None:
                raise
            self._bad.append(BadExample.of(error))
            return self._bad[-1]

    def _read(self, row: int, turn: int | None) -> Any:
        file, number, line = self._lines[row]
        record = parse_line(line, file.path, number, self.required)
        key = None if turn is None else (self.order.seed, self.kind, turn, row)
        return self._example(record, file, number, key)

    def _survey(self) -> None:
        """Read lines all over each manifest; raise what is wrong with them, log what the filters leave out."""
        reasons: Counter[str] = Counter()
        total, bad = 0, 0
        most = max(_SURVEYED_LEAST, min(SURVEYED, 4 * SURVEYED // len(self._lines.files)))
        for begin, end in pairwise(self._lines.first):
            rows = np.unique(np.linspace(begin, end - 1, min(end - begin, most)).astype(np.int64))
            total += len(rows)
            for row in rows:
                example = self._read_or_skip(int(row), None)
                if isinstance(example, BadExample):
                    bad += 1
                elif isinstance(example, str):
                    reasons[example] += 1
        self.surveyed = total
        names = ", ".join(str(file.path) for file in self._lines.files)
        if bad == total:
            raise InputError(f"none of {total} lines can be used. The first: {self._bad[0].reason}", *self._bad[0][:2])
        if sum(reasons.values()) + bad == total:
            more = f"; {bad} that cannot be used" if bad else ""
            raise InputError(f"all of {total} lines are left out: {_tally(reasons)}{more}", names)
        if reasons:
            of = f"{total} lines" if total == len(self) else f"{total} of {len(self)} lines looked at"
            logging.info(f"{names}: {sum(reasons.values())} of {of} are left out: {_tally(reasons)}")


def _tell_line(example: Any, line: Line) -> None:
    if isinstance(example, Cut):
        example.custom["read_from"] = line
    else:
        example.read_from = line


def line_of(example: Any) -> Line | None:
    """The pass and the row of an example's line, where its reader tells; None if something else was made of it."""
    return (example.custom or {}).get("read_from") if isinstance(example, Cut) else getattr(example, "read_from", None)


def _tally(reasons: Counter[str]) -> str:
    return "; ".join(f"{number} {reason}" for reason, number in reasons.most_common())

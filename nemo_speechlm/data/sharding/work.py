"""The work of a job whose lines are shards: each is made whole, in one process."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nemo_speechlm.data.audio.sources import TAR
from nemo_speechlm.data.sharding.encoding import AudioEncoding, Encoded
from nemo_speechlm.data.sharding.files import ShardWriter, member_name, names_of
from nemo_speechlm.data.sharding.suspects import Suspects, check_suspect
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, parse_line
from nemo_speechlm.jobs.lines import LineIndex
from nemo_speechlm.jobs.types import Work
from nemo_speechlm.jobs.work import Unexpected
from nemo_speechlm.storage import is_url, join, upload

ORDER = "order.npy"
"""In the folder of a plan: the lines in the order in which they go into shards; not there if that is their own."""


@dataclass(frozen=True)
class ShardWork:
    """How shards are made; picklable, the same in every worker.

    Attributes:
        plan: folder with an index for each manifest and the order of lines, which every worker sees.
        manifests: the sources, as messages name them.
        output: folder of the shards, maybe at an address.
        encoding: of audio; None for text.
        gzipped: whether shards of text are compressed.
        skip_bad: list bad lines and go on.
    """

    plan: Path
    manifests: Sequence[str]
    output: str
    encoding: AudioEncoding | None
    gzipped: bool = False
    skip_bad: bool = False

    def __call__(self) -> Work:
        """What makes a shard."""
        sources = [LineIndex.load(index_folder(self.plan, i)) for i in range(len(self.manifests))]
        order = np.load(self.plan / ORDER, mmap_mode="r") if (self.plan / ORDER).exists() else None
        return _Maker(self, Lines(sources, self.manifests), order)


def index_folder(plan: Path, number: int) -> Path:
    """Where the index of a manifest is."""
    return plan / f"manifest_{number}"


class Lines:
    """The lines of several manifests in a row.

    Args:
        indexes: of the manifests.
        names: of the manifests, for messages.
    """

    def __init__(self, indexes: Sequence[LineIndex], names: Sequence[str]):
        self._indexes, self._names = indexes, names
        self._first = np.cumsum([0, *(index.total for index in indexes)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def read(self, rows: Sequence[int]) -> dict[int, tuple[str, int, str | InputError]]:
        """Manifest, line number and line of some rows, by row; each stretch of them is read at once."""
        found = {}
        for first, last in _stretches(sorted(rows)):
            while first < last:
                file = int(np.searchsorted(self._first, first, side="right")) - 1
                base = int(self._first[file])
                end = min(last, int(self._first[file + 1]))
                for row, (number, line) in enumerate(self._indexes[file].read(first - base, end - base), start=first):
                    found[row] = (self._names[file], number, line)
                first = end
        return found


def _stretches(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, one behind the last) of numbers that follow each other."""
    begin = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i] != rows[i - 1] + 1:
            yield rows[begin], rows[i - 1] + 1
            begin = i


class _Maker:
    """Makes shards."""

    def __init__(self, work: ShardWork, lines: Lines, order: np.ndarray | None):
        self._job, self._lines, self._order = work, lines, order

    def __call__(self, number: int, line: str) -> Record:
        """Make the shard of a line of the plan; the result says what is in it."""
        plan: Record = json.loads(line)
        shard, (first, last) = plan["shard"], plan["lines"]
        rows = [int(row) for row in (range(first, last) if self._order is None else self._order[first:last])]
        audio = self._job.encoding is not None
        with ExitStack() as held:
            folder = Path(self._job.output)
            if is_url(self._job.output):
                folder = Path(held.enter_context(TemporaryDirectory(prefix="nemo_speechlm-")))
            with ShardWriter(folder, shard, audio, self._job.gzipped) as writer:
                seconds, bad = self._fill(writer, rows)
            if is_url(self._job.output):
                for name in names_of(shard, audio, self._job.gzipped):
                    upload(folder / name, join(self._job.output, name))
        hours = {"hours": round(seconds / 3600, 6)} if audio else {}
        return {"shard_id": shard, "lines": len(rows) - len(bad), **hours, "bytes": writer.size, "bad": bad}

    def _fill(self, writer: ShardWriter, rows: Sequence[int]) -> tuple[float, list[Record]]:
        """Put lines into a shard; returns the seconds of their audio, and what is bad."""
        lines = self._lines.read(rows)
        seconds, bad = 0.0, []
        with Suspects(self._job.plan, writer.shard) as suspects:
            for row in rows:
                found = self._found(*lines[row], suspected=suspects.at(row))
                if isinstance(found, InputError):
                    bad.append({"file": found.path, "line": found.line, "reason": found.reason})
                elif isinstance(found, str):
                    writer.add_line(found)
                else:
                    record, encoded = found
                    writer.add(record, member_name(record["audio_filepath"], row, encoded.suffix), encoded.content)
                    seconds += encoded.duration
        return seconds, bad

    def _found(
        self, manifest: str, number: int, line: str | InputError, suspected: bool
    ) -> str | tuple[Record, Encoded] | InputError:
        """What goes into a shard for a line; what is wrong with it, where such lines are left out.

        Raises:
            InputError: at a bad line, unless such lines are left out.
        """
        try:
            if suspected and self._job.encoding is not None and isinstance(line, str):
                check_suspect(self._job.encoding, manifest, number, line)
            return self._read(manifest, number, line)
        except Exception as error:
            if isinstance(error, InputError):
                bad = error
            else:
                bad = InputError(f"{Unexpected(error).reason}; skip_bad=true leaves such lines out", manifest, number)
            if not self._job.skip_bad:
                raise bad from error
            return bad

    def _read(self, manifest: str, number: int, line: str | InputError) -> str | tuple[Record, Encoded]:
        if isinstance(line, InputError):
            raise InputError(line.reason, manifest, number)
        record = parse_line(line, manifest, number)
        if self._job.encoding is None:
            if "audio_filepath" in record:
                raise InputError("has audio, which the first lines of the first manifest have not", manifest, number)
            return line
        encoded = self._job.encoding.encoded(record, manifest, number)
        record = {key: value for key, value in record.items() if key not in ("offset", TAR)}
        if record.get("duration") is None:
            record["duration"] = round(encoded.duration, 4)
        return record, encoded

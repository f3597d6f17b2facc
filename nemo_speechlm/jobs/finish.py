"""The end of a job: chunk files become the output and the list of what is missing."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import Record, atomic_write, dump_line, sync
from nemo_speechlm.jobs.chunks import BatchedLines, Chunk, gaps, read_chunk
from nemo_speechlm.jobs.lines import LineIndex
from nemo_speechlm.jobs.plan import Plan
from nemo_speechlm.jobs.progress import JobFolder, skipped_path
from nemo_speechlm.jobs.report import CUT_PHONES, JobReport
from nemo_speechlm.jobs.types import Place

_SKIPPED = '{"_skipped": '
"""How the record of a skipped line begins."""


class Skipped(NamedTuple):
    """A line without a result.

    Attributes:
        reason: why.
        line: its number in the source.
        path: the file at fault, if that is not the source.
    """

    reason: str
    line: int
    path: str | None


class Results:
    """All records of a job, or of a part of it, in the order of the lines."""

    def __init__(self, folder: JobFolder, plan: Plan, batches: BatchedLines, part: Chunk, index: LineIndex):
        self._folder, self._plan, self._batches, self._part, self._index = folder, plan, batches, part, index

    def chunks(self) -> Iterator[list[bytes]]:
        """The records of each chunk, as the lines they were written as.

        Raises:
            SpeechLMError: if a file is not as it was written.
        """
        chunks = self._folder.chunks(self._plan, self._batches)
        if gaps(chunks, self._part):
            raise SpeechLMError(f"{self._folder.path}: some of its files were damaged; run the command again")
        for chunk in chunks:
            yield read_chunk(self._folder.path, self._plan.digest, chunk)

    def records(self) -> Iterator[Record | Skipped]:
        """The result of each line, or why it has none."""
        for chunk in self.chunks():
            for line in chunk:
                record = json.loads(line)
                skipped = "_skipped" in record
                yield Skipped(record["_skipped"], record["_line"], record.get("_path")) if skipped else record

    def refuse_bad(self, chunks: Iterable[Chunk], source: Path) -> None:
        """Raise at the first bad line that a command with ``skip_bad=true`` has left out; this one has it not.

        Raises:
            InputError: as that line would have.
        """
        for chunk in chunks:
            for line in read_chunk(self._folder.path, self._plan.digest, chunk):
                if line.startswith(_SKIPPED.encode()) and (record := json.loads(line)).get("_bad"):
                    where = (record["_path"],) if "_path" in record else (source, record["_line"])
                    raise InputError(f"{record['_skipped']}; skip_bad=true leaves such lines out", *where)

    def placed(self, place: Place) -> Iterator[Path | str | None]:
        """Where ``place`` says that each record goes which was not skipped."""
        lines = (line.decode() for chunk in self.chunks() for line in chunk)
        return iter(place(json.loads(line) for line in lines if not line.startswith(_SKIPPED)))

    def numbers(self) -> Iterator[int]:
        """The lines' numbers in the source."""
        return (number for number, _ in self._index.read(self._part.first, self._part.last))


def finish(
    results: Results,
    output: Path,
    source: Path,
    place: Place | None,
    written: Callable[[Record], Record] | None,
    before_rename: Callable[[Path], None] | None,
    may_be_empty: bool,
) -> JobReport:
    """Turn the results into the output and the list of what is missing.

    If this is interrupted, the chunks are still there, and doing it again gives the same files. The output is renamed
    last.

    Raises:
        InputError: if nothing could be used.
    """
    with ExitStack() as stack:
        files = _Files(stack, output, source, written, before_rename)
        if place is None:
            for chunk in results.chunks():
                files.put_chunk(chunk)
        else:
            places, numbers = results.placed(place), results.numbers()
            for chunk in results.chunks():
                for line in chunk:
                    number = next(numbers)
                    files.put(line.decode(), number, None if line.startswith(_SKIPPED.encode()) else next(places))
        if not files.report.written and not may_be_empty:
            raise InputError(f"nothing in it could be used: {files.report}", source)
    if not files.report.skipped:
        skipped_path(output).unlink()
    return files.report


class _Files:
    """The files that a job makes, and what is in them."""

    def __init__(
        self,
        stack: ExitStack,
        output: Path,
        source: Path,
        written: Callable[[Record], Record] | None,
        before_rename: Callable[[Path], None] | None,
    ):
        self._stack, self._output, self._source, self._written = stack, output, source, written
        self.report = JobReport()
        self._building = stack.enter_context(atomic_write(output, partial(_end, before_rename)))
        self._skipped = stack.enter_context(atomic_write(skipped_path(output), sync))
        self._others: dict[Path, IO[str]] = {}

    def put_chunk(self, chunk: list[bytes]) -> None:
        """Write the records of a chunk; at once if they are all for the output and say nothing that is counted."""
        body = b"".join(chunk)
        if _SKIPPED.encode() in body or CUT_PHONES.encode() in body or self._written is not None:
            for line in chunk:
                self.put(line.decode())
        else:
            self._building.write(body.decode())
            self.report.written += len(chunk)

    def put(self, line: str, number: int = 0, where: Path | str | None = None) -> None:
        """Write a record where it belongs.

        Args:
            line: the record's.
            number: its line's in the source; of a skipped one, the record says it.
            where: what its :data:`Place` is.
        """
        record: Record = json.loads(line) if line.startswith(_SKIPPED) or CUT_PHONES in line else {}
        where = record.get("_skipped", where)
        if isinstance(where, str):
            self.report.skip(where)
            item = {"file": str(self._source), "line": record.get("_line", number)}
            item = {"file": record["_path"]} if "_path" in record else item
            self._skipped.write(dump_line({**item, "reason": where}))
            return
        self.report.wrote(record)
        if self._written is not None:
            line = dump_line(self._written(json.loads(line)))
        if where is None or where == self._output:
            self._building.write(line)
            return
        if where not in self._others:
            self._others[where] = self._stack.enter_context(atomic_write(where, sync))
        self._others[where].write(line)


def _end(before_rename: Callable[[Path], None] | None, path: Path) -> None:
    """Bring a finished output to the disk: the chunks that it was made of are removed next."""
    if before_rename is not None:
        before_rename(path)
    sync(path)

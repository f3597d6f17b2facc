"""What a job has done so far: its progress file, from which a killed job resumes."""

import json
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

from nemo_speechlm.files import Record, iter_lines


def skipped_path(output: str | Path) -> Path:
    """Where a job lists what it left out."""
    output = Path(output)
    return output.with_name(output.name + ".skipped.jsonl")


def progress_path(output: str | Path) -> Path:
    """Where a job keeps its results until all are there; not the name under which the output itself is written."""
    output = Path(output)
    return output.with_name(f".partial.{output.name}.jsonl")


def _skip_record(error: Exception, source: Path, number: int) -> Record:
    """The record of a skipped line, with the file at fault if that is not the source."""
    record: Record = {"_skipped": getattr(error, "reason", str(error)), "_line": number}
    path = getattr(error, "path", None)
    return record if path in (None, str(source)) else record | {"_path": path}


def _is_progress_of(partial: Path, header: str) -> bool:
    if not partial.exists():
        return False
    with open(partial, "rb") as file:
        return file.readline() == header.encode()


def _count_lines(partial: Path) -> int:
    """Whole lines behind the header."""
    with open(partial, "rb") as file:
        return sum(line.endswith(b"\n") for line in file) - 1


def _resume(partial: Path, header: str, batch_size: int, expected: int) -> int:
    """Truncate ``partial`` to whole batches and return how many results it has; empty it if it is another job's."""
    if not _is_progress_of(partial, header):
        partial.write_text(header, encoding="utf-8")
        return 0
    with open(partial, "rb+") as file:
        file.readline()
        whole, count, complete = file.tell(), 0, 0
        end = whole
        for line in file:
            if line.endswith(b"\n"):
                end, count = end + len(line), count + 1
                if count % batch_size == 0 or count == expected:
                    whole, complete = end, count
        file.truncate(whole)
        return complete


def _records(partial: Path) -> Iterator[tuple[str, Record]]:
    with open(partial, encoding="utf-8") as file:
        next(file)
        for line in file:
            yield line, json.loads(line)


def _line_numbers(source: Path, needed: bool) -> Iterator[int]:
    """Numbers of the source's non-blank lines; zeros if not needed: skipped records have their own."""
    return (number for number, _ in iter_lines(source)) if needed else repeat(0)

"""The listing of a corpus: what is known of its utterances before their audio is opened, a JSON line each.

A line has ``audio_filepath`` (absolute, or relative to the working directory; of audio in a tar its name there, beside
``tar_filepath``, which is absolute) and keys of the manifest's line: ``speaker``, ``text``, and of a part of a file
``offset`` and perhaps ``duration``, in seconds. A key ``_skip`` says why the utterance is left out, ``_bad`` why it is
bad input. :func:`nemo_speechlm.data.corpora.folder.make_folder_work` makes manifests of listings.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, atomic_write, dump_line, shown


def write_listing(listing: str | Path, records: Iterable[Record], source: str | Path) -> int:
    """Write a listing; returns its number of lines.

    Raises:
        InputError: if there are none; naming the source.
    """
    found = iter(records)
    try:
        first = next(found)
    except StopIteration:
        raise InputError("no utterances in it", source) from None
    count = 0
    with atomic_write(listing) as file:
        for record in chain([first], found):
            file.write(listing_line(record))
            count += 1
    return count


def listing_line(record: Record) -> str:
    """The line of a record; no manifest can name a file whose name is not UTF-8, so the line says that it is bad."""
    path = record["audio_filepath"]
    if shown(path) != path:
        record = {"audio_filepath": shown(path), "_bad": "its name is not UTF-8, as manifests are; rename it"}
    return dump_line(record)


def chosen_parts(there: Sequence[str], parts: Sequence[str] | None, source: str | Path) -> list[str]:
    """The parts of a corpus to read: those asked for, or the only one.

    Train and test data in one manifest would not be noticed until the results are too good; so several parts must be
    asked for.

    Raises:
        InputError: if a part is not there, or none was named and there are several.
    """
    names = ", ".join(there)
    if parts is None:
        if len(there) > 1:
            raise InputError(f"has the parts {names}; say which, such as parts=[{there[0]}]", source)
        return list(there)
    if twice := sorted({part for part in parts if list(parts).count(part) > 1}):
        raise InputError(f"parts has {', '.join(twice)} twice; its lines would be, too", source)
    for part in parts:
        if part not in there:
            raise InputError(f"no part {part!r} in it; there are: {names}", source)
    return list(parts)


def names_and_rests(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    """(line number, first word, the rest or "") of lines as Kaldi and LibriSpeech write them."""
    for number, line in lines:
        name, *rest = line.strip().split(maxsplit=1)
        yield number, name, rest[0] if rest else ""

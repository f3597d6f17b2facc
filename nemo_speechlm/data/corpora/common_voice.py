"""Common Voice (Ardila et al. 2020, arXiv 1912.06670): tables of clips and what was read, into a listing.

Lhotse's recipe of it (``corpus=recipe recipe=commonvoice``) wants the columns of some releases, leaves out clips that
are not there, and holds the table in memory.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_speechlm.data.corpora.listing import chosen_parts, write_listing
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, open_text

PARTS = ("train", "dev", "test", "validated", "other", "invalidated")
"""Of each language. The first three do not overlap; ``validated`` has them all."""
_COLUMNS = ("client_id", "path", "sentence")


def list_common_voice(source: str | Path, listing: str | Path, parts: Sequence[str] | None = None) -> list[str]:
    """Write what Common Voice's tables say of each clip.

    Args:
        source: the folder of a language, with ``clips`` and ``train.tsv``; or of a release that has only one language;
            or one table.
        listing: the file to write.
        parts: of :data:`PARTS`; None: the only one there is.

    Returns:
        what a user should know of it: nothing.

    Raises:
        InputError: if it is no such folder, a table is not as published, or parts of a single table are asked for.
    """
    source = Path(source)
    if source.is_file():
        if parts is not None:
            raise InputError("is one table, and parts are several; leave parts out, or give the folder", source)
        tables = [source]
    else:
        folder = _language(source)
        there = [part for part in PARTS if (folder / f"{part}.tsv").is_file()]
        chosen = chosen_parts(there, parts, folder)
        if "validated" in chosen and (within := [part for part in chosen if part in PARTS[:3]]):
            raise InputError(
                f"parts has validated and {within[0]}, which is in it: lines would be there twice", folder
            )
        tables = [folder / f"{part}.tsv" for part in chosen]
    write_listing(listing, (record for table in tables for record in _records(table)), source)
    return []


def _language(source: Path) -> Path:
    """The folder of a language: the one given, or the only one in a release."""
    if not source.is_dir():
        raise InputError("no such folder", source)
    found = [source, *sorted(path for path in source.glob("*") if path.is_dir())]
    found += sorted(path for path in source.glob("*/*") if path.is_dir() and path.parent.name.startswith("cv-corpus"))
    languages = [path for path in found if any((path / f"{part}.tsv").is_file() for part in PARTS)]
    if not languages:
        raise InputError(f"no table of Common Voice in it ({', '.join(f'{part}.tsv' for part in PARTS)})", source)
    if languages[0] == source:
        return source
    if len(languages) > 1:
        names = ", ".join(path.name for path in languages)
        raise InputError(f"has the languages {names}; give the folder of one, such as {languages[0]}", source)
    return languages[0]


def _records(table: Path) -> Iterator[Record]:
    clips = table.parent / "clips"
    if not clips.is_dir():
        raise InputError("no such folder; expected Common Voice's clips", clips)
    with open_text(table) as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            found = ", ".join(rows.fieldnames or ())
            raise InputError(f"no column {', '.join(missing)}; it has {found}", table, 1)
        try:
            for row in rows:
                if any(row[name] is None for name in _COLUMNS):
                    raise InputError("fewer columns than the header has", table, rows.line_num)
                name = row["path"] if Path(row["path"]).suffix else f"{row['path']}.mp3"  # older releases leave it out
                record = {"audio_filepath": str(clips / name), "speaker": row["client_id"]}
                record["text"] = " ".join(row["sentence"].split())
                yield record if record["text"] else record | {"_skip": "no transcript"}
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read as a table: {error}", table, rows.line_num) from error

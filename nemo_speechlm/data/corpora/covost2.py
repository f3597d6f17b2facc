"""CoVoST 2 (arXiv 2007.10310): a table of Common Voice's clips with their translations, into a manifest."""

import csv
import re
from pathlib import Path

from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, atomic_write, dump_line, open_text

_NAME = re.compile(r"covost_v2\.([\w-]+)_([\w-]+?)(\.|$)")
_COLUMNS = ("path", "sentence", "translation")


def languages_of(table: str | Path) -> tuple[str, str] | None:
    """From and to which language a table's name says that it translates.

    >>> languages_of("covost_v2.fr_en.train.tsv"), languages_of("covost_v2.en_zh-CN.tsv"), languages_of("train.tsv")
    (('fr', 'en'), ('en', 'zh-CN'), None)
    """
    found = _NAME.search(Path(table).name)
    return None if found is None else (found[1], found[2])


def list_covost2(
    table: str | Path,
    listing: str | Path,
    *,
    clips: str | Path | None = None,
    source_lang: str | None = None,
    target_lang: str | None = None,
) -> int:
    """Write what a table says of each clip, a JSON line each, before the clips are opened.

    Args:
        table: ``covost_v2.<from>_<to>.<part>.tsv``, with the columns path, sentence and translation.
        listing: the file to write. ``text`` is the translation, ``source_text`` the sentence; both as they are.
        clips: folder of the clips; None: ``clips`` beside the table.
        source_lang: language of the speech; None: what the table's name says.
        target_lang: of the translation; likewise.

    Returns:
        the number of clips.

    Raises:
        InputError: if it is not such a table, its languages are not known, or there is no such folder.
    """
    table = Path(table)
    if not table.is_file():
        raise InputError("no such file; expected a table of CoVoST 2, covost_v2.<from>_<to>.<part>.tsv", table)
    folder = table.parent / "clips" if clips is None else Path(clips)
    if not folder.is_dir():
        raise InputError("no such folder; expected Common Voice's clips, say clips=", folder)
    named = languages_of(table) or (None, None)
    languages = {"source_lang": source_lang or named[0], "target_lang": target_lang or named[1]}
    for key, language in languages.items():
        if language is None:
            raise InputError(f"its name does not say the languages; give {key}=", table)
    count = 0
    with open_text(table) as file, atomic_write(listing) as out:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise InputError(
                f"no column {', '.join(missing)}; it has {', '.join(rows.fieldnames or ())}; is it one of CoVoST 2?",
                table,
                1,
            )
        try:
            for row in rows:
                out.write(dump_line(_record(row, folder, languages, table, rows.line_num)))
                count += 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read as a table: {error}", table, rows.line_num) from error
    if not count:
        raise InputError("has no lines but its header", table)
    return count


def _record(row: Record, folder: Path, languages: dict, table: Path, number: int) -> Record:
    if any(row[name] is None for name in _COLUMNS):
        raise InputError("fewer columns than the header has", table, number)
    name = row["path"] if Path(row["path"]).suffix else f"{row['path']}.mp3"
    record: Record = {"audio_filepath": str(folder / name)}
    if row.get("client_id"):
        record["speaker"] = row["client_id"]
    record |= {"text": " ".join(row["translation"].split()), "source_text": " ".join(row["sentence"].split())}
    record |= languages
    if not record["text"]:
        record["_skip"] = "no translation"
    return record

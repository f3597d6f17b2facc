"""Transcripts beside a folder of audio: tables with columns, or lines of a name and its text."""

import csv
from collections.abc import Iterator
from pathlib import Path

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, iter_lines, open_text

PATH_COLUMNS = ("audio_filepath", "path", "file", "filename", "file_name", "audio", "wav", "id", "utterance")
"""Names under which tables of transcripts have the audio file, in the order in which they are looked for."""
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "normalized_text")
"""Names under which they have what was said."""


class Transcripts:
    """What was said in the audio files of a folder.

    They are taken from one file, or else from what lies beside the audio: ``*.trans.txt`` with a file's name (without
    its ending) and its text on each line, as in LibriSpeech, or a text file named like the audio.

    Args:
        folder: the corpus, which the paths in ``source`` may be relative to.
        audio: its audio files.
        source: a ``.tsv`` or ``.csv`` table with a header, a ``.json`` or ``.jsonl`` file with one object a line, or
            any other text file with a name and a text on each line. Names are paths or, where that is unambiguous,
            bare file names, with or without ending.

    Raises:
        InputError: if the source has none of the audio files, or names one that could be several.
    """

    def __init__(self, folder: str | Path, audio: list[Path], source: str | Path | None = None):
        self._folder = Path(folder)
        self._beside: dict[Path, dict[str, str]] = {}
        self._texts: dict[Path, str] | None = None
        self.unmatched = 0
        if source is not None:
            self._texts = self._match(audio, Path(source))

    def __getitem__(self, audio: Path) -> str | None:
        """The transcript of an audio file, or None."""
        if self._texts is not None:
            return self._texts.get(audio)
        if audio.parent not in self._beside:
            self._beside[audio.parent] = {
                name: text
                for file in sorted(audio.parent.glob("*.trans.txt"))
                for _, name, text in _read_names_and_texts(file)
            }
        text = self._beside[audio.parent].get(audio.stem)
        own = audio.with_suffix(".txt")
        if text is None and own.is_file():
            text = " ".join(line.strip() for _, line in iter_lines(own)) or None
        return text

    def _match(self, audio: list[Path], source: Path) -> dict[Path, str]:
        by_name: dict[str, list[Path]] = {}
        for path in audio:
            relative = path.relative_to(self._folder)
            names = (
                str(path.resolve()),
                relative.as_posix(),
                relative.with_suffix("").as_posix(),
                path.name,
                path.stem,
            )
            for name in dict.fromkeys(names):
                by_name.setdefault(name, []).append(path)
        texts: dict[Path, str] = {}
        for number, name, text in _read_transcripts(source):
            found = by_name.get(Path(name).as_posix()) or by_name.get(str((source.parent / name).resolve())) or []
            if len(found) > 1:
                raise InputError(f"{name!r} may be {found[0]} or {found[1]}; expected a path", source, number)
            if not found:
                self.unmatched += 1
            elif (known := texts.setdefault(found[0], text)) != text:
                raise InputError(f"{found[0]} has another text already: {known!r:.60}", source, number)
        if not texts:
            raise InputError(
                f"none of its {self.unmatched} transcripts belongs to an audio file in {self._folder}", source
            )
        return texts


def _read_transcripts(source: Path) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, name of the audio, text)."""
    suffix = source.name.removesuffix(".gz").rpartition(".")[2].lower()
    if suffix in ("json", "jsonl"):
        for number, record in read_manifest(source):
            yield number, *_columns(record, source, number)
    elif suffix in ("tsv", "csv"):
        if not source.is_file():
            raise InputError("no such file", source)
        with open_text(source) as file:
            if suffix == "tsv":
                rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            else:
                rows = csv.DictReader(file)
            try:
                for row in rows:
                    yield rows.line_num, *_columns(row, source, rows.line_num)
            except (csv.Error, UnicodeDecodeError) as error:
                raise InputError(f"cannot be read as a table: {error}", source, rows.line_num) from error
    else:
        yield from _read_names_and_texts(source)


def _read_names_and_texts(source: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in iter_lines(source):
        name, *rest = line.strip().split(maxsplit=1)
        yield number, name, rest[0] if rest else ""


def _columns(row: Record, source: Path, number: int) -> tuple[str, str]:
    values = []
    for names in (PATH_COLUMNS, TEXT_COLUMNS):
        name = next((name for name in names if isinstance(row.get(name), str)), None)
        if name is None:
            columns = ", ".join(map(str, row))
            raise InputError(f"expected a column named {' or '.join(names)}; it has {columns}", source, number)
        values.append(row[name])
    return values[0], values[1]

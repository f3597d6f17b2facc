"""Folders of audio files, with or without transcripts, into manifests."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nemo_speechlm.data.audio import AUDIO_SUFFIXES, audio_info, check_duration, seconds_of
from nemo_speechlm.data.manifest import Record, audio_path, parse_line, read_manifest
from nemo_speechlm.data.text_cleaning import SentenceCleaner, TextCleaning
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import atomic_write, iter_lines, open_text
from nemo_speechlm.jobs import Work

PATH_COLUMNS = ("audio_filepath", "path", "file", "filename", "file_name", "audio", "wav", "id", "utterance")
"""Names under which tables of transcripts have the audio file, in the order in which they are looked for."""
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "normalized_text")
"""Names under which they have what was said."""


def find_audio(folder: str | Path) -> list[Path]:
    """All audio files below a folder, by their names' endings, sorted.

    Raises:
        InputError: if there is no such folder, or no audio in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder", folder)
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"no audio files ({', '.join(sorted(AUDIO_SUFFIXES))}) in it", folder)
    return found


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
            if found:
                texts[found[0]] = text
            else:
                self.unmatched += 1
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


@dataclass(frozen=True)
class CorpusOptions:
    """What becomes of a corpus' files.

    Args:
        min_duration: shorter ones are left out, in seconds.
        max_duration: longer ones, too.
        decode: read each file to its end, instead of believing its header.
        cleaning: of transcripts; None leaves them as they are.
        fix_duration: correct wrong durations in a manifest, instead of raising.
        text_field: key in a manifest of what becomes its ``text``.
    """

    min_duration: float | None = None
    max_duration: float | None = None
    decode: bool = False
    cleaning: TextCleaning | None = None
    fix_duration: bool = False
    text_field: str = "text"

    def check(self, duration: float, path: Path) -> None:
        """Raise SkipItem unless the duration, in seconds, is in the range."""
        if self.min_duration is not None and duration < self.min_duration:
            raise SkipItem(f"shorter than min_duration={self.min_duration:g} s", path)
        if self.max_duration is not None and duration > self.max_duration:
            raise SkipItem(f"longer than max_duration={self.max_duration:g} s", path)


def list_folder(
    folder: str | Path,
    listing: str | Path,
    *,
    transcripts: str | Path | None = None,
    transcribed: bool | None = None,
    speaker_level: int | None = None,
) -> tuple[int, int]:
    """Write what is known of a folder's audio files before they are opened, a JSON line each.

    Args:
        folder: searched with all folders in it.
        listing: the file to write.
        transcripts: see :class:`Transcripts`.
        transcribed: True leaves out files without a transcript, False all transcripts.
        speaker_level: which folder above a file is its speaker: 1 is the one that it lies in.

    Returns:
        The number of files, and of transcripts that belong to none of them.
    """
    audio = find_audio(folder)
    texts = Transcripts(folder, audio, transcripts)
    with atomic_write(listing) as file:
        for path in audio:
            record: Record = {"audio_filepath": str(path)}
            if speaker_level is not None:
                above = path.relative_to(folder).parts[:-1]
                if len(above) < speaker_level:
                    raise InputError(f"speaker_level is {speaker_level}, but it lies {len(above)} folders deep", path)
                record["speaker"] = above[-speaker_level]
            text = None if transcribed is False else texts[path]
            if text is not None:
                record["text"] = text
            elif transcribed:
                record["_skip"] = "no transcript"
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return len(audio), texts.unmatched


def make_folder_work(listing: str | Path, output: str | Path, options: CorpusOptions) -> Work:
    """The work of a job (see :mod:`nemo_speechlm.jobs`) that turns lines of a listing into a manifest's."""
    cleaner = None if options.cleaning is None else SentenceCleaner(options.cleaning)
    home = Path(output).parent.resolve()

    def work(number: int, line: str) -> Record:
        listed = parse_line(line, listing, number)
        path = Path(listed.pop("audio_filepath"))
        if "_skip" in listed:
            raise SkipItem(listed["_skip"], path)
        duration = round(audio_info(path, options.decode).duration, 4)
        options.check(duration, path)
        if cleaner is not None and "text" in listed:
            try:
                listed["text"] = cleaner.clean(listed["text"])
            except SkipItem as error:
                raise SkipItem(f"transcript: {error}", path) from None
        absolute = path.resolve()
        relative = absolute.relative_to(home).as_posix() if absolute.is_relative_to(home) else str(absolute)
        return {"audio_filepath": relative, "duration": duration, **listed}

    return work


def make_manifest_work(manifest: str | Path, output: str | Path, options: CorpusOptions) -> Work:
    """The work of a job that checks a manifest's lines against their audio."""
    manifest = Path(manifest)
    moved = manifest.parent.resolve() != Path(output).parent.resolve()
    cleaner = None if options.cleaning is None else SentenceCleaner(options.cleaning)

    def work(number: int, line: str) -> Record:
        record = parse_line(line, manifest, number, ["audio_filepath"])
        path = audio_path(record, manifest)
        try:
            length = audio_info(path, options.decode).duration
        except InputError as error:
            raise InputError(str(error), manifest, number) from error
        record["duration"] = _checked_duration(record, length, path, manifest, number, options.fix_duration)
        options.check(record["duration"], path)
        if options.text_field != "text":
            if not isinstance(record.get(options.text_field), str):
                raise InputError(f"no {options.text_field!r} (text_field) with a string", manifest, number)
            record["text"] = record.pop(options.text_field)
        if cleaner is not None and record.get("text"):
            try:
                record["text"] = cleaner.clean(record["text"])
            except SkipItem as error:
                raise SkipItem(f"transcript: {error}") from None
        if moved:
            record["audio_filepath"] = str(path.resolve())
        return record

    return work


def _checked_duration(
    record: Record, length: float, path: Path, manifest: str | Path, number: int, fix: bool
) -> float:
    """The seconds of audio that a record stands for, of a file that lasts ``length``."""
    offset, duration = (seconds_of(record, key, manifest, number) for key in ("offset", "duration"))
    rest = length - (offset or 0.0)
    if rest <= 0:
        raise InputError(f"offset is {offset:g} s, but {path} lasts {length:.3f} s", manifest, number)
    found = rest if offset is None or duration is None else min(rest, duration)
    if not fix:
        check_duration(duration, found, path, manifest, number)
    return round(found, 4)

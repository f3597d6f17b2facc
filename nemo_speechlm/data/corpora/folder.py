"""Folders of audio files, with or without transcripts, into manifests."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_speechlm.data.audio.files import AUDIO_SUFFIXES, audio_info
from nemo_speechlm.data.audio.sources import TAR, audio_source, naming
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.data.audio.utterances import check_duration, part_of_file, seconds_of
from nemo_speechlm.data.corpora.folder_transcripts import Transcripts
from nemo_speechlm.data.corpora.listing import listing_line
from nemo_speechlm.data.manifests.lines import text_of
from nemo_speechlm.data.text.cleaning import SentenceCleaner
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import Record, atomic_write, files_below, parse_line, shown
from nemo_speechlm.jobs.types import Work


def find_audio(folder: str | Path) -> list[Path]:
    """All audio files below a folder, by their names' endings, sorted.

    Links to folders are followed, but for those to a folder that is looked at anyway.

    Raises:
        InputError: if there is no such folder, or no audio in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder", folder)
    found = sorted(p for p in files_below(folder) if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"no audio files ({', '.join(sorted(AUDIO_SUFFIXES))}) in it", folder)
    return found


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

    def check(self, duration: float, path: Path | TarAudio) -> None:
        """Raise SkipItem unless the duration, in seconds, is in the range."""
        if self.min_duration is not None and duration < self.min_duration:
            raise SkipItem(f"shorter than min_duration={self.min_duration:g} s", str(path))
        if self.max_duration is not None and duration > self.max_duration:
            raise SkipItem(f"longer than max_duration={self.max_duration:g} s", str(path))


def list_folder(
    folder: str | Path,
    listing: str | Path,
    *,
    transcripts: str | Path | None = None,
    transcribed: bool | None = None,
    speaker_level: int | None = None,
) -> list[str]:
    """Write what is known of a folder's audio files before they are opened, a JSON line each.

    Args:
        folder: searched with all folders in it.
        listing: the file to write.
        transcripts: see :class:`Transcripts`.
        transcribed: True leaves out files without a transcript, False all transcripts.
        speaker_level: which folder above a file is its speaker: 1 is the one that it lies in.

    Returns:
        what a user should know: transcripts that were looked for and not found, or that belong to no file.

    Raises:
        InputError: if there is no audio, or no transcript beside it while Kaldi's files lie there.
    """
    audio = find_audio(folder)
    texts = Transcripts(folder, audio, transcripts)
    without = 0
    with atomic_write(listing) as file:
        for path in audio:
            record: Record = {"audio_filepath": str(path)}
            if speaker_level is not None:
                above = path.relative_to(folder).parts[:-1]
                if len(above) < speaker_level:
                    raise InputError(f"speaker_level is {speaker_level}, but it lies {len(above)} folders deep", path)
                record["speaker"] = above[-speaker_level]
            text = None if transcribed is False else texts[path]
            without += text is None
            if text is not None:
                record["text"] = text
            elif transcribed:
                record["_skip"] = "no transcript"
            file.write(listing_line(record))
        if transcribed is not False and transcripts is None and without == len(audio):
            return [_no_transcripts(Path(folder), len(audio))]
    notes = []
    if texts.unmatched:
        notes.append(f"{transcripts}: {texts.unmatched} transcripts belong to none of the {len(audio)} audio files")
    if transcribed is not False and without:
        notes.append(f"{without} of {len(audio)} audio files have no transcript")
    return notes


_KALDI = ("wav.scp", "text", "utt2spk", "segments")
_TABLES = frozenset(f".{ending}" for ending in "tsv csv json jsonl txt stm trn ctm textgrid gz parquet".split())


def _no_transcripts(folder: Path, count: int) -> str:
    """What to say of a folder in which no file has a transcript.

    Raises:
        InputError: if Kaldi's files are there, which have them.
    """
    others: Sequence[Path] = sorted(path for path in files_below(folder) if path.is_file())
    kaldi = [path for path in others if path.name in _KALDI]
    if kaldi:
        raise InputError(
            f"no transcripts beside its audio, but Kaldi's files ({', '.join(path.name for path in kaldi[:4])}); "
            f"corpus=kaldi source={kaldi[0].parent} reads them, transcribed=false leaves them out",
            folder,
        )
    tables = [shown(path.relative_to(folder)) for path in others if path.suffix.lower() in _TABLES]
    more = f"; not read: {', '.join(tables[:4])}{', ...' if len(tables) > 4 else ''}" if tables else ""
    return (
        f"no transcripts: neither *.trans.txt nor NAME.txt beside any of the {count} audio files in {folder}{more} "
        "(transcripts= names a table of them)"
    )


def make_folder_work(listing: str | Path, output: str | Path, options: CorpusOptions) -> Work:
    """The work of a job (see :mod:`nemo_speechlm.jobs.job`) that turns lines of a listing into a manifest's."""
    cleaner = None if options.cleaning is None else SentenceCleaner(options.cleaning)
    home = Path(output).parent.resolve()

    def work(number: int, line: str) -> Record:
        listed = parse_line(line, listing, number)
        if "_bad" in listed:
            raise InputError(listed["_bad"], listed["audio_filepath"])
        path = audio_source(listed, listing, number) if TAR in listed else Path(listed["audio_filepath"])
        if "_skip" in listed:
            raise SkipItem(listed["_skip"], str(path))
        available = audio_info(path, options.decode).duration
        offset, duration = part_of_file(listed, path, available, listing, number)
        if "offset" in listed:
            listed["offset"] = round(offset, 4)
        listed["duration"] = duration = round(duration, 4)
        options.check(duration, path)
        if cleaner is not None and "text" in listed:
            try:
                listed["text"] = cleaner.clean(listed["text"])
            except SkipItem as error:
                raise SkipItem(f"transcript: {error}", str(path)) from None
        where = naming(path.resolve())
        file = TAR if TAR in where else "audio_filepath"
        where[file] = _seen_from(home, Path(where[file]))
        times: Record = {key: listed[key] for key in ("offset", "duration") if key in listed}
        return {**where, **times, **{key: value for key, value in listed.items() if key not in {*where, *times}}}

    return work


def _seen_from(home: Path, path: Path) -> str:
    """A path, absolute, as a manifest in a folder names it: relative if it lies below."""
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)


def make_manifest_work(manifest: str | Path, output: str | Path, options: CorpusOptions) -> Work:
    """The work of a job that checks a manifest's lines against their audio."""
    manifest = Path(manifest)
    moved = manifest.parent.resolve() != Path(output).parent.resolve()
    cleaner = None if options.cleaning is None else SentenceCleaner(options.cleaning)

    def work(number: int, line: str) -> Record:
        record = parse_line(line, manifest, number, ["audio_filepath"])
        path = audio_source(record, manifest, number)
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
        if record.get("text") is not None:
            text_of(record, "text", manifest, number)
        if cleaner is not None and record.get("text"):
            try:
                record["text"] = cleaner.clean(record["text"])
            except SkipItem as error:
                raise SkipItem(f"transcript: {error}") from None
        if moved:
            record |= naming(path.resolve())
        return record

    return work


def _checked_duration(
    record: Record, length: float, path: Path | TarAudio, manifest: str | Path, number: int, fix: bool
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

"""Folders that Hugging Face's ``datasets`` opens, into a listing."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import soundfile

from nemo_speechlm.data.corpora.folder_transcripts import TEXT_COLUMNS
from nemo_speechlm.data.corpora.listing import chosen_parts, write_listing
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import Record, whole_file
from nemo_speechlm.locks import real_path

SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
"""Names under which speakers are looked for, in this order."""


def list_huggingface(
    source: str | Path,
    listing: str | Path,
    parts: Sequence[str] | None,
    audio_folder: str | Path,
    manifest: Path,
) -> list[str]:
    """Write what a data set of Hugging Face's says of each row.

    Audio that lies inside the data set is written to files, as it is; those that are there already stay, so that an
    interrupted run goes on.

    Args:
        source: a folder that ``save_to_disk`` wrote, or one that ``load_dataset`` opens, such as parquet files.
        listing: the file to write.
        parts: splits; None: the only one.
        audio_folder: where audio from inside the data set goes.
        manifest: that will name these files. One that is there is removed before the first file that it may name is
            replaced: its text is not what the new one says.

    Returns:
        what was not found: columns of transcripts or speakers.

    Raises:
        InputError: if it cannot be opened, or no column has audio.
        SpeechLMError: if ``datasets`` is not installed.
    """
    source = Path(source)
    splits = _opened(source)
    names = chosen_parts(list(splits), parts, source)
    columns = list(splits[names[0]].column_names)
    audio = _audio_column(splits[names[0]], source)
    text = next((name for name in TEXT_COLUMNS if name in columns), None)
    speaker = next((name for name in SPEAKER_COLUMNS if name in columns), None)

    def records() -> Iterator[Record]:
        for name in names:
            rows = _undecoded(splits[name], audio).select_columns([c for c in (audio, text, speaker) if c])
            for number, row in enumerate(rows):
                path = _file_of(row[audio], Path(audio_folder) / name, number, source, manifest)
                record: Record = {"audio_filepath": str(path)}
                if speaker is not None and row[speaker] is not None:
                    record["speaker"] = str(row[speaker])
                if text is not None and row[text]:
                    record["text"] = str(row[text])
                yield record

    write_listing(listing, records(), source)
    notes = []
    for what, found, wanted in (("transcripts", text, TEXT_COLUMNS), ("speakers", speaker, SPEAKER_COLUMNS)):
        if found is None:
            notes.append(f"no {what}: no column {', '.join(wanted)}; it has {', '.join(columns)}")
    return notes


def _opened(source: Path) -> dict[str, Any]:
    """The data set's splits."""
    if not source.is_dir():
        raise InputError("no such folder; corpus=huggingface opens a folder, and downloads nothing", source)
    try:
        import datasets
    except ImportError as error:
        raise SpeechLMError("corpus=huggingface needs datasets: pip install datasets") from error
    saved = (source / "dataset_dict.json").is_file() or (source / "state.json").is_file()
    try:
        found = datasets.load_from_disk(str(source)) if saved else datasets.load_dataset(str(source))
    except Exception as error:  # of whatever its builder is
        raise InputError(f"datasets cannot open it: {_innermost(error)}{_way_out(source)}", source) from error
    return dict(found) if isinstance(found, dict) else {"all": found}


def _innermost(error: BaseException) -> str:
    """What went wrong, below all that says that something did."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')[:300]}"


def _way_out(source: Path) -> str:
    """Audio files with a table, which datasets itself opens only with a decoder, are read without it."""
    table = next((path for name in ("metadata.csv", "metadata.jsonl") for path in sorted(source.rglob(name))), None)
    return "" if table is None else f"; corpus=folder source={table.parent} transcripts={table} reads its files"


def _audio_column(split: Any, source: Path) -> str:
    for name, feature in split.features.items():
        if type(feature).__name__ == "Audio" or (isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()):
            return name
    raise InputError(f"no column with audio; it has {', '.join(split.column_names)}", source)


def _undecoded(split: Any, column: str) -> Any:
    """The split with its audio as bytes or paths: decoding it would need further libraries."""
    import datasets

    return split.cast_column(column, datasets.Audio(decode=False))


def _file_of(value: Any, folder: Path, number: int, source: Path, manifest: Path) -> Path:
    """The file of a row's audio; written if the data set holds its bytes."""
    if value is None:
        raise InputError(f"row {number} has no audio", source)
    content = value.get("bytes")
    if content is None:
        path = Path(value.get("path") or "")
        return path if path.is_absolute() or path.is_file() else source / path
    suffix = Path(value.get("path") or "").suffix or f".{_format_of(content, number, source)}"
    path = folder / f"{number // 10000:04d}" / f"{number:08d}{suffix}"
    if not (path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content):
        with whole_file(path) as partial:
            partial.write_bytes(content)
            if path.exists():
                real_path(manifest).unlink(missing_ok=True)
    return path


def _format_of(content: bytes, number: int, source: Path) -> str:
    try:
        return soundfile.info(BytesIO(content)).format.lower()
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise InputError(f"the audio of row {number} cannot be read: {error}", source) from error

"""Data folders of Kaldi (wav.scp, text, utt2spk, segments), into a listing.

Lhotse reads them too, but opens all audio first, drops what it cannot open with a warning, and takes neither a line
without a text nor a folder without utt2spk; so they are read here, where each error has its file and line.
"""

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from nemo_speechlm.data.audio.files import audio_info
from nemo_speechlm.data.corpora.listing import names_and_rests, write_listing
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, iter_lines

_ARCHIVE = re.compile(r"\.ark:\d+")


def list_kaldi(source: str | Path, listing: str | Path) -> list[str]:
    """Write what a data folder says of each utterance.

    Args:
        source: the folder. It must have wav.scp; segments, text and utt2spk are read where they are. Relative paths in
            wav.scp are taken from the working directory, the folder, or the two folders above it: the first that has
            the first recording.
        listing: the file to write.

    Returns:
        what was not found: files, and texts of utterances.

    Raises:
        InputError: naming file and line, at what is no such file, or a recording that is a command other than
            ``flac -c -d FILE |`` or lies in an archive.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise InputError("no such folder; corpus=kaldi reads a data folder with wav.scp", folder)
    if not (folder / "wav.scp").is_file():
        raise InputError(
            f"no wav.scp in it; it has {', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}", folder
        )
    recordings = _recordings(folder)
    texts, speakers = (_mapping(folder / name) for name in ("text", "utt2spk"))
    used = 0

    def records() -> Iterator[Record]:
        nonlocal used
        for utterance, record in _utterances(folder, recordings):
            if speakers is not None and utterance in speakers:
                record["speaker"] = speakers[utterance]
            if texts is not None and utterance in texts:
                used += 1
                record["text"] = texts[utterance]
                if not record["text"]:
                    record["_skip"] = "its text is empty"
            yield record

    count = write_listing(listing, records(), folder)
    looked_for = [("text", texts), ("utt2spk", speakers)]
    notes = [f"no {name} in {folder}: no {what}" for (name, found), what in zip(
        looked_for, ("transcripts", "speakers"), strict=True) if found is None]  # fmt: skip
    if texts is not None and used < count:
        notes.append(f"{count - used} of {count} utterances have no line in {folder / 'text'}")
    if texts is not None and used < len(texts):
        notes.append(f"{len(texts) - used} lines of {folder / 'text'} belong to no utterance")
    if texts is not None and not used:
        first, named = next(iter(texts)), next(iter(recordings))
        raise InputError(
            f"none of its {len(texts)} names is one of the {count} utterances (the first is {first!r}; recordings "
            f"have names such as {named!r})",
            folder / "text",
        )
    return notes


def _mapping(path: Path) -> dict[str, str] | None:
    """First word to rest of each line; None if there is no such file."""
    if not path.is_file():
        return None
    found: dict[str, str] = {}
    for number, name, rest in names_and_rests(iter_lines(path)):
        if name in found:
            raise InputError(f"a second line of {name!r}", path, number)
        found[name] = rest
    return found


def _recordings(folder: Path) -> dict[str, Path]:
    path = folder / "wav.scp"
    found: dict[str, Path] = {}
    for number, name, rest in names_and_rests(iter_lines(path)):
        if name in found:
            raise InputError(f"a second line of {name!r}", path, number)
        found[name] = Path(_file_of(rest, path, number))
    if not found:
        raise InputError("is empty", path)
    first = next(iter(found.values()))
    if first.is_absolute():
        return found
    bases = [Path(), folder, folder.resolve().parent, folder.resolve().parent.parent]
    base = next((base for base in bases if (base / first).is_file()), None)
    if base is None:
        looked = ", ".join(str(base.resolve()) for base in dict.fromkeys(bases))
        raise InputError(f"no {first} in any of {looked}", path, 1)
    return {name: base / audio for name, audio in found.items()}


def _file_of(entry: str, path: Path, number: int) -> str:
    """The audio file that an entry of wav.scp means."""
    if not entry:
        raise InputError("a name without a file", path, number)
    if entry.endswith("|"):
        try:
            words = shlex.split(entry[:-1])
        except ValueError:
            words = []
        # what Kaldi's own recipes write of FLAC files: libsndfile reads these itself
        if words and Path(words[0]).name == "flac" and all(word.startswith("-") for word in words[1:-1]):
            return words[-1]
        raise InputError(
            f"a command: {entry[:60]!r}; expected an audio file (or flac -c -d -s FILE |). Kaldi's wav-copy writes "
            "files: wav-copy scp:wav.scp scp:files.scp",
            path,
            number,
        )
    if _ARCHIVE.search(entry):
        raise InputError(f"a part of an archive: {entry[:60]!r}; expected an audio file (see wav-copy)", path, number)
    return entry


def _utterances(folder: Path, recordings: dict[str, Path]) -> Iterator[tuple[str, Record]]:
    path = folder / "segments"
    if not path.is_file():
        for name, audio in recordings.items():
            yield name, {"audio_filepath": str(audio)}
        return
    seen, several = set(), functools.cache(_has_several_channels)
    for number, line in iter_lines(path):
        words = line.split()
        if len(words) not in (4, 5):
            raise InputError(
                f"{len(words)} words; expected utterance, recording, begin and end in seconds", path, number
            )
        utterance, recording = words[:2]
        if utterance in seen:
            raise InputError(f"a second line of {utterance!r}", path, number)
        seen.add(utterance)
        if recording not in recordings:
            raise InputError(f"no recording {recording!r} in wav.scp", path, number)
        try:
            begin, end = float(words[2]), float(words[3])
        except ValueError:
            raise InputError(f"from {words[2]!r} to {words[3]!r}; expected seconds", path, number) from None
        record: Record = {"audio_filepath": str(recordings[recording]), "offset": begin}
        if end != -1:  # which stands for the end of the recording
            if not 0 <= begin < end:
                raise InputError(f"from {begin:g} to {end:g} s; expected an end behind the beginning", path, number)
            record["duration"] = round(end - begin, 4)
        if len(words) == 5 and (words[4] != "0" or several(recordings[recording])):
            record["_skip"] = (
                f"on channel {words[4]}: most commands read the mean of a file's channels; give each channel its own "
                "file, such as by sox BOTH.wav ONE.wav remix 1"
            )
        yield utterance, record


def _has_several_channels(path: Path) -> bool:
    """Whether audio has several channels; no if it cannot be read, which is told of when it is its turn."""
    try:
        return audio_info(path).channels > 1
    except InputError:
        return False

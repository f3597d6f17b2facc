"""What features are extracted from: manifests, audio files, folders."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_speechlm.data.audio.files import AUDIO_SUFFIXES, audio_info
from nemo_speechlm.data.audio.utterances import part_of_file
from nemo_speechlm.data.manifests.lines import audio_path, read_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record
from nemo_speechlm.inference.audio_batches import Utterance


def read_inputs(inputs: Sequence[str | Path], skip_bad: bool = False) -> tuple[list[Utterance], list[InputError]]:
    """The utterances of manifests, audio files and folders of audio files, in order.

    Raises:
        InputError: at the first that cannot be used, unless ``skip_bad``; or if none can.
    """
    utterances: list[Utterance] = []
    skipped: list[InputError] = []
    for record, path, manifest, number in _records(inputs):
        try:
            utterances.append(_utterance(record, path, manifest, number, skip_bad))
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(error)
    if not utterances:
        reason = f"; the first: {skipped[0]}" if skipped else ""
        raise InputError(f"there is no audio in {', '.join(map(str, inputs))}{reason}")
    return utterances, skipped


def _records(inputs: Sequence[str | Path]) -> Iterator[tuple[Record, Path, Path | None, int | None]]:
    for given in map(Path, inputs):
        if given.is_dir():
            for path in sorted(p for p in given.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file()):
                yield {"audio_filepath": str(path.absolute())}, path, None, None
        elif given.suffix.lower() in AUDIO_SUFFIXES:
            yield {"audio_filepath": str(given.absolute())}, given, None, None
        else:
            for number, record in read_manifest(given, required=("audio_filepath",)):
                if not isinstance(record["audio_filepath"], str):
                    raise InputError(f"audio_filepath is {record['audio_filepath']!r}, expected a path", given, number)
                path = audio_path(record, given)
                yield record | {"audio_filepath": str(path.absolute())}, path, given, number


def _utterance(record: Record, path: Path, manifest: Path | None, number: int | None, decode: bool) -> Utterance:
    try:
        available = audio_info(path, decode=decode).duration
    except InputError as error:
        raise error if manifest is None else InputError(str(error), manifest, number) from None
    offset, duration = 0.0, available
    if manifest is not None and number is not None:
        offset, duration = part_of_file(record, path, available, manifest, number)
    return Utterance(record | {"duration": round(duration, 4)}, path, offset, duration)

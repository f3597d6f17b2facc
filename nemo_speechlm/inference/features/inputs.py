"""The inputs of feature extraction: manifests, audio files, folders."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_speechlm.data.audio.files import AUDIO_SUFFIXES, audio_info
from nemo_speechlm.data.audio.sources import naming
from nemo_speechlm.data.audio.utterances import AudioPart, audio_part
from nemo_speechlm.data.corpora.folder import find_audio
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.manifests.shards import expand_shards
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
    for record, source, number in _records(inputs):
        try:
            utterances.append(_utterance(record, source, number, skip_bad))
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(error)
    if not utterances:
        reason = f"; the first: {skipped[0]}" if skipped else ""
        raise InputError(f"there is no audio in {', '.join(map(str, inputs))}{reason}")
    return utterances, skipped


def _records(inputs: Sequence[str | Path]) -> Iterator[tuple[Record, Path, int | None]]:
    """(record, the file or manifest that it stands in, line); a line is None where the file is the audio itself."""
    for given in map(Path, expand_shards(inputs)):
        if given.is_dir():
            for path in find_audio(given):
                yield {"audio_filepath": str(path.absolute())}, path, None
        elif given.suffix.lower() in AUDIO_SUFFIXES:
            yield {"audio_filepath": str(given.absolute())}, given, None
        else:
            for number, record in read_manifest(given, required=("audio_filepath",)):
                yield record, given, number


def _utterance(record: Record, source: Path, number: int | None, decode: bool) -> Utterance:
    if number is None:
        part = AudioPart(source, 0.0, audio_info(source, decode=decode).duration)
    else:
        part = audio_part(record, source, number, decode)
    named = {**naming(part.path), "duration": round(part.duration, 4)}
    return Utterance(record | named, *part)

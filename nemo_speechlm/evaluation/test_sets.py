"""Manifests with references, read for evaluation."""

from pathlib import Path

from nemo_speechlm.data.audio.files import audio_info
from nemo_speechlm.data.audio.utterances import part_of_file
from nemo_speechlm.data.manifests.lines import audio_path, read_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record
from nemo_speechlm.inference.audio_batches import Utterance


def read_utterances(
    manifest: str | Path, *, text_field: str = "text", skip_bad: bool = False
) -> tuple[list[Utterance], list[InputError]]:
    """Read and check a manifest with transcripts; an empty transcript is one in which nothing is said.

    Args:
        manifest: JSON lines with ``audio_filepath`` and the text; ``offset`` and ``duration`` pick a part of the file.
        text_field: the text's key.
        skip_bad: return what is wrong, instead of raising at the first; each file is then decoded here already.

    Returns:
        the utterances, and what was left out.

    Raises:
        InputError: at the first line that cannot be used, or if none can.
    """
    utterances, skipped = [], []
    for number, record in read_manifest(manifest):
        try:
            utterance = _utterance(record, manifest, number, text_field)
            if skip_bad:
                audio_info(utterance.path, decode=True)
            utterances.append(utterance)
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(InputError(error.reason, manifest, number))
    if not utterances:
        raise InputError(f"none of its {len(skipped)} lines can be used; the first: {skipped[0].reason}", manifest)
    return utterances, skipped


def _utterance(record: Record, manifest: str | Path, number: int, text_field: str) -> Utterance:
    for key in ("audio_filepath", text_field):
        if not isinstance(record.get(key), str):
            found = f"is {record[key]!r}" if key in record else "is missing"
            raise InputError(f"{key!r} {found}, expected a string", manifest, number)
    path = audio_path(record, manifest)
    try:
        available = audio_info(path).duration
    except InputError as error:
        raise InputError(f"{path}: {error.reason}", manifest, number) from None
    offset, duration = part_of_file(record, path, available, manifest, number)
    if record.get("offset") is not None and record.get("duration") is None:
        record = record | {"duration": round(duration, 4)}  # so that results say which part of the file it is
    return Utterance(record, path, offset, duration, " ".join(record[text_field].split()))

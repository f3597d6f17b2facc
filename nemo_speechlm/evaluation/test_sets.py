"""Manifests with references, read for evaluation."""

from pathlib import Path

from nemo_speechlm.data.audio.utterances import audio_part
from nemo_speechlm.data.manifests.lines import read_manifest, text_of
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
        skip_bad: return the errors instead of raising the first; to find them all, each file is decoded here.

    Returns:
        the utterances, and what was left out.

    Raises:
        InputError: at the first line that cannot be used, or if none can.
    """
    utterances, skipped = [], []
    for number, record in read_manifest(manifest):
        try:
            utterances.append(_utterance(record, manifest, number, text_field, decode=skip_bad))
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(InputError(error.reason, manifest, number))
    if utterances and not any(utterance.text for utterance in utterances):
        raise InputError(
            f"all {len(utterances)} texts ({text_field}) are empty: there is nothing to compare with", manifest
        )
    if not utterances:
        raise InputError(f"none of its {len(skipped)} lines can be used; the first: {skipped[0].reason}", manifest)
    return utterances, skipped


def _utterance(record: Record, manifest: str | Path, number: int, text_field: str, decode: bool) -> Utterance:
    text_of(record, "audio_filepath", manifest, number)
    text = " ".join(text_of(record, text_field, manifest, number).split())
    part = audio_part(record, manifest, number, decode)
    if record.get("offset") is not None and record.get("duration") is None:
        record = record | {"duration": round(part.duration, 4)}  # so that results name the part of the file
    return Utterance(record, *part, text)

"""Manifests with references, read for evaluation."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from nemo_speechlm.data.audio.sources import naming
from nemo_speechlm.data.audio.utterances import audio_part
from nemo_speechlm.data.manifests.lines import read_manifests, text_of
from nemo_speechlm.data.manifests.shards import expand_shards, label
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record
from nemo_speechlm.inference.audio_batches import Utterance


def read_utterances(
    manifest: str | Path | Sequence, *, text_field: str = "text", skip_bad: bool = False
) -> tuple[list[Utterance], list[InputError]]:
    """Read and check a manifest with transcripts; an empty transcript is one in which nothing is said.

    Args:
        manifest: JSON lines with ``audio_filepath`` and the text; ``offset`` and ``duration`` pick a part of the file.
            Several as a list, or as ``a_{0..9}.json``; their records then name audio by absolute paths.
        text_field: the text's key.
        skip_bad: return the errors instead of raising the first; to find them all, each file is decoded here.

    Returns:
        the utterances, and what was left out.

    Raises:
        InputError: at the first line that cannot be used, or if none can.
    """
    utterances, skipped = [], []
    several = len(expand_shards(manifest)) > 1
    for path, number, record in read_manifests(manifest):
        try:
            found = _utterance(record, path, number, text_field, decode=skip_bad)
        except InputError as error:
            if not skip_bad:
                raise
            skipped.append(InputError(error.reason, path, number))
            continue
        if several:  # relative names of one are not those of another
            found = replace(found, record=found.record | naming(found.path))
        utterances.append(found)
    manifest = label(manifest) if not isinstance(manifest, Path) else manifest
    if utterances and not any(utterance.text for utterance in utterances):
        raise InputError(
            f"all {len(utterances)} texts ({text_field}) are empty: there is nothing to compare with", manifest
        )
    if not utterances:
        raise InputError(f"none of its {len(skipped)} lines can be used; the first: {skipped[0].reason}", manifest)
    return utterances, skipped


def unwritable(references: Iterable[str], letters: Collection[str]) -> str | None:
    """What to say where references have characters that a model never writes: each is an error, whatever it hears.

    Args:
        references: the texts.
        letters: that the model may write; none: they are not known.
    """
    strange = Counter(c for text in references for c in set(text) if letters and not c.isspace() and c not in letters)
    if not strange:
        return None
    (most, number), *_ = strange.most_common(1)
    return (
        f"the references have characters that the model never writes: {' '.join(map(repr, sorted(strange)[:8]))} "
        f"({most!r} in {number:,} of them). Each counts as an error; prepare_text.py and prepare_data.py (clean=true) "
        "write texts as models do"
    )


def _utterance(record: Record, manifest: str | Path, number: int, text_field: str, decode: bool) -> Utterance:
    text_of(record, "audio_filepath", manifest, number)
    text = " ".join(text_of(record, text_field, manifest, number).split())
    part = audio_part(record, manifest, number, decode)
    if record.get("offset") is not None and record.get("duration") is None:
        record = record | {"duration": round(part.duration, 4)}  # so that results name the part of the file
    return Utterance(record, *part, text)

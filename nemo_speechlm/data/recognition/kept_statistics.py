"""What a large manifest of transcripts holds, kept beside it: the next start need not check each line again."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nemo_speechlm.data.bad_examples import BadExample
from nemo_speechlm.data.manifests.kept_index import kept_beside
from nemo_speechlm.data.recognition.transcripts import TranscriptStatistics
from nemo_speechlm.files import sync, whole_file

_VERSION = 1


def statistics_path(manifest: Path) -> Path:
    """The hidden file beside ``manifest`` that keeps its statistics."""
    return manifest.with_name(f".{manifest.name}.transcripts.npz")


def kept_statistics(
    manifest: str | Path, asked: object, check: Callable[[], TranscriptStatistics]
) -> tuple[TranscriptStatistics, bool]:
    """What ``check`` finds in a manifest, and whether it was found before.

    It is kept in :func:`statistics_path` as :func:`kept_beside` says, and is read from there as long as the manifest
    has its size and its times of change, and the same is asked. Audio files are then not looked for again.

    Args:
        manifest: JSON lines.
        asked: what else the statistics depend on; of equal ones ``repr`` is equal. None: nothing is kept.
        check: reads the manifest through.
    """
    if asked is None:
        return check(), False
    path, question = Path(manifest), hashlib.sha256(repr(asked).encode()).hexdigest()
    return kept_beside(
        path,
        lambda state: _read(path, [_VERSION, *state, question]),
        check,
        lambda statistics, state: _write(path, [_VERSION, *state, question], statistics),
    )


def _read(path: Path, key: list) -> TranscriptStatistics | None:
    """What is kept, or None if there is none that belongs to the manifest and the question, or it is damaged."""
    try:
        with np.load(statistics_path(path), allow_pickle=False) as kept:  # zip files check their content
            head, rates = json.loads(kept["head"].tobytes()), kept["frame_rates"]
        if head["key"] != key:
            return None
        return TranscriptStatistics(
            **head["numbers"], frame_rates=rates, bad=tuple(BadExample(*each) for each in head["bad"])
        )
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _write(path: Path, key: list, statistics: TranscriptStatistics) -> None:
    numbers = {name: value for name, value in vars(statistics).items() if name not in ("frame_rates", "bad")}
    head = json.dumps({"key": key, "numbers": numbers, "bad": statistics.bad}).encode()
    with whole_file(statistics_path(path)) as partial:
        with open(partial, "wb") as file:
            np.savez(file, head=np.frombuffer(head, dtype=np.uint8), frame_rates=statistics.frame_rates)
        sync(partial)

"""Libri-Light (Kahn et al. 2020, arXiv 1912.07875): up to 60,000 hours of English books without transcripts.

Each ``<part>/<speaker>/<book>/<recording>.flac`` has a ``.json`` beside it, with the reader and the stretches in which
a voice was found. A manifest line is some of these stretches, joined; the audio is not cut, a line says where it
begins. Lhotse's recipe holds every stretch of the corpus in memory and makes a line of each, however short.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.corpora.listing import chosen_parts, write_listing
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, files_below

PARTS = ("small", "medium", "large", "duplicate")


def list_libri_light(
    source: str | Path,
    listing: str | Path,
    parts: Sequence[str] | None = None,
    join_up_to: float | None = 16.0,
) -> list[str]:
    """Write what Libri-Light says of each stretch of speech.

    Args:
        source: the folder with ``small``, ``medium`` or ``large`` in it, or one of these.
        listing: the file to write.
        parts: of :data:`PARTS`; None: the only one there is.
        join_up_to: neighbouring stretches are joined up to this many seconds, and longer ones divided; None takes
            each recording as a whole.

    Returns:
        what a user should know of it.

    Raises:
        InputError: if it is not Libri-Light, or one of its ``.json`` files is not as published.
    """
    root = Path(source)
    if not root.is_dir():
        raise InputError("no such folder", root)
    if join_up_to is not None:
        check_number("join_up_to", join_up_to, above=0)
    if root.name in PARTS and not any((root / part).is_dir() for part in PARTS):
        root = root.parent
        parts = [Path(source).name] if parts is None else parts
    there = [part for part in PARTS if (root / part).is_dir()]
    if not there:
        raise InputError(f"none of Libri-Light's parts in it ({', '.join(PARTS)})", root)
    silent = 0

    def records() -> Iterator[Record]:
        nonlocal silent
        for part in chosen_parts(there, parts, root):
            for audio in sorted(path for path in files_below(root / part) if path.suffix == ".flac"):
                found = list(_records(audio, join_up_to))
                silent += not found
                yield from found or [{"audio_filepath": str(audio), "_skip": "no voice in it, says its .json"}]

    write_listing(listing, records(), root)
    return [f"{silent} recordings have no voice in them, say their .json files"] if silent else []


def _records(audio: Path, join_up_to: float | None) -> Iterator[Record]:
    path = audio.with_suffix(".json")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot be read ({error.strerror}); Libri-Light has one beside each recording", path
        ) from None
    except ValueError as error:
        raise InputError(f"not JSON: {error}", path) from error
    if not isinstance(about, dict) or "speaker" not in about:
        raise InputError("expected an object with speaker and voice_activity", path)
    record: Record = {"audio_filepath": str(audio), "speaker": str(about["speaker"])}
    if join_up_to is None:
        yield record
        return
    for begin, end in joined(_stretches(about.get("voice_activity"), path), join_up_to):
        yield record | {"offset": round(begin, 3), "duration": round(end - begin, 3)}


def _stretches(found: Any, path: Path) -> list[tuple[float, float]]:
    try:
        stretches = [(float(begin), float(end)) for begin, end in found]
    except (TypeError, ValueError):
        raise InputError(f"voice_activity is {str(found)[:60]}, expected pairs of seconds", path) from None
    for begin, end in stretches:
        if not 0 <= begin < end < math.inf:
            raise InputError(f"voice_activity has a stretch from {begin:g} to {end:g} s", path)
    return sorted(stretches)


def joined(stretches: Sequence[tuple[float, float]], most: float) -> Iterator[tuple[float, float]]:
    """Join neighbours, with the pause between them, as long as the sum lasts no longer than ``most`` seconds.

    A stretch that is longer than that is divided evenly.

    >>> list(joined([(0, 4), (5, 9), (9.5, 12), (20, 35)], 10))
    [(0, 9), (9.5, 12), (20.0, 27.5), (27.5, 35.0)]
    """
    held: tuple[float, float] | None = None
    for begin, end in stretches:
        if held is not None and end - held[0] <= most:
            held = held[0], max(held[1], end)
            continue
        if held is not None:
            yield held
        held = begin, end
        if end - begin > most:
            pieces = math.ceil((end - begin) / most)
            step = (end - begin) / pieces
            yield from ((begin + i * step, begin + (i + 1) * step) for i in range(pieces))
            held = None
    if held is not None:
        yield held

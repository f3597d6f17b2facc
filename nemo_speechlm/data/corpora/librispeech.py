"""LibriSpeech (Panayotov et al. 2015, openslr.org/12) and its small form (openslr.org/31), into a listing.

Lhotse has a recipe of it, which ``corpus=recipe recipe=librispeech`` runs; the lines are the same. That one leaves out
an utterance whose audio is not there, stops at an empty line without saying where, and opens every file twice.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from nemo_speechlm.data.corpora.listing import chosen_parts, names_and_rests, write_listing
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, iter_lines

UTTERANCES = {
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
    "dev-clean-2": 1089,
    "train-clean-5": 1519,
}
"""The parts, and how many utterances were published of each."""


def list_librispeech(source: str | Path, listing: str | Path, parts: Sequence[str] | None = None) -> list[str]:
    """Write what LibriSpeech says of each utterance.

    Args:
        source: the folder ``LibriSpeech``, or the one that it is in.
        listing: the file to write.
        parts: such as ``train-clean-100``; None: the only one there is.

    Returns:
        what a user should know of it: parts that are not complete.

    Raises:
        InputError: if it is not LibriSpeech, or a part is not there.
    """
    root = Path(source)
    if not root.is_dir():
        raise InputError("no such folder", root)
    root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    there = [part for part in UTTERANCES if (root / part).is_dir()]
    if not there:
        raise InputError(f"none of LibriSpeech's parts in it ({', '.join(UTTERANCES)})", root)
    notes: list[str] = []

    def records() -> Iterator[Record]:
        for part in chosen_parts(there, parts, root):
            count = 0
            for record in _records(root / part):
                count += 1
                yield record
            if count != UTTERANCES[part]:
                notes.append(f"{part}: {count} utterances; {UTTERANCES[part]} were published")

    write_listing(listing, records(), root)
    return notes


def _records(part: Path) -> Iterator[Record]:
    """Of every line of ``<speaker>/<chapter>/<speaker>-<chapter>.trans.txt``, and of audio that none of them names."""
    for chapter in sorted(path for path in part.glob("*/*") if path.is_dir()):
        named = set()
        for transcripts in sorted(chapter.glob("*.trans.txt")):
            for number, name, text in names_and_rests(iter_lines(transcripts)):
                if not text:
                    raise InputError(f"no text behind {name!r}", transcripts, number)
                named.add(name)
                record = {"audio_filepath": str(chapter / f"{name}.flac"), "speaker": name.partition("-")[0]}
                yield record | {"text": text}
        for audio in sorted(chapter.glob("*.flac")):
            if audio.stem not in named:
                yield {"audio_filepath": str(audio), "_skip": "no transcript"}

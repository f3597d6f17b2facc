"""Voices of Festival (festvox.org): recordings with the sentences that were read, into a listing.

A voice's folder has ``etc/txt.done.data``, a line ``( name "Sentence." )`` for each recording ``wav/name.wav``. Debian
has such packages; festvox-ru is an hour and a half of one Russian speaker.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from nemo_speechlm.data.corpora.listing import write_listing
from nemo_speechlm.errors import InputError
from nemo_speechlm.files import Record, iter_lines

SENTENCES = Path("etc") / "txt.done.data"
"""What was read, below a voice's folder."""

_LINE = re.compile(r'\(\s*(\S+)\s+"((?:[^"\\]|\\.)*)"\s*\)')
_STRESS = re.compile(r"\+(?=\w)")


def list_festvox(source: str | Path, listing: str | Path) -> list[str]:
    """Write what a voice says of each recording.

    A ``+`` in front of a letter, which marks stress in Russian sentences, is taken out of them.

    Args:
        source: the voice's folder, or one that it alone is in, at any depth.
        listing: the file to write.

    Returns:
        what a user should know: recordings without a sentence, which are left out.

    Raises:
        InputError: if there is no such folder, no voice or more than one in it, or a line that says something else.
    """
    root = Path(source)
    if not root.is_dir():
        raise InputError("no such folder; corpus=festvox reads a voice's, with etc/txt.done.data and wav", root)
    voices = [root] if (root / SENTENCES).is_file() else sorted(p.parent.parent for p in root.rglob(str(SENTENCES)))
    if len(voices) != 1:
        found = ", ".join(map(str, voices)) or "none"
        raise InputError(f"expected one voice in it, a folder with {SENTENCES}; there are: {found}", root)
    folder, path, named = voices[0], voices[0] / SENTENCES, set()

    def records() -> Iterator[Record]:
        for number, line in iter_lines(path):
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise InputError(f'expected ( name "sentence" ), found {line.strip()[:60]!r}', path, number)
            name, text = found[1], _STRESS.sub("", found[2].replace('\\"', '"'))
            if name in named:
                raise InputError(f"a second line of {name!r}", path, number)
            named.add(name)
            yield {"audio_filepath": str(folder / "wav" / f"{name}.wav"), "speaker": folder.name, "text": text}

    write_listing(listing, records(), folder)
    more = sorted({path.stem for path in (folder / "wav").glob("*.wav")} - named)
    return [f"{len(more)} recordings have no sentence and are left out, {more[0]} the first"] if more else []

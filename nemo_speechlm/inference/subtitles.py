"""Words in time as subtitles (SubRip) and as paragraphs."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nemo_speechlm.decoding.times import TimedWord

_LINE = 42
"""Characters of a line, as broadcasters have it; a cue has two lines."""
_LONGEST = 6.0
"""Seconds of a cue."""
_PAUSE = 0.8
"""Seconds without a word that end a cue."""


class Cue(NamedTuple):
    """A subtitle.

    Attributes:
        start: seconds.
        end: seconds.
        text: one line or two.
    """

    start: float
    end: float
    text: str


def make_cues(words: Iterable[TimedWord]) -> list[Cue]:
    """Words in cues of at most two lines and six seconds that end at pauses.

    What has one time for several words, as a passage of a model that tells no times of words, is divided by letters.
    """
    groups: list[list[TimedWord]] = []
    for word in (part for each in words for part in _divided(each)):
        last = groups[-1] if groups else []
        if (
            not last
            or word.start - last[-1].end > _PAUSE
            or word.end - last[0].start > _LONGEST
            or len(_lines([w.text for w in [*last, word]])) > 2
        ):
            groups.append([])
        groups[-1].append(word)
    return [Cue(group[0].start, group[-1].end, "\n".join(_lines([w.text for w in group]))) for group in groups]


def to_srt(cues: Iterable[Cue]) -> str:
    """Cues in the SubRip format."""
    blocks = [
        f"{number}\n{_clock(cue.start)} --> {_clock(max(cue.end, cue.start + 0.1))}\n{cue.text}\n"
        for number, cue in enumerate(cues, start=1)
    ]
    return "\n".join(blocks)


def _divided(passage: TimedWord) -> Iterator[TimedWord]:
    words, start = passage.text.split(), passage.start
    each = (passage.end - passage.start) / max(sum(map(len, words)), 1)
    for word in words:
        yield TimedWord(word, start, start + each * len(word), passage.confidence)
        start += each * len(word)


def _lines(words: Sequence[str]) -> list[str]:
    return textwrap.wrap(" ".join(words), _LINE, break_long_words=False, break_on_hyphens=False)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02},{rest % 1000:03}"

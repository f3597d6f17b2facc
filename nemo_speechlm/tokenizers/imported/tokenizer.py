"""Units from alignments of other tools: Kaldi's phone CTM, or TextGrids of the Montreal Forced Aligner."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import files_below, iter_lines
from nemo_speechlm.tokenizers.imported.files import CtmFile, Interval, read_textgrid
from nemo_speechlm.tokenizers.imported.frames import find_tier, merged_silences, position_in_word, whole_frames
from nemo_speechlm.tokenizers.speech import SpeechInput, SpeechTokenizer, SpeechTokenizing, SpeechUnits
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import FRAME_RATE, SILENCE, base_phone, phoneme_inventory

Style = Literal["position_stress", "plain", "as_is"]
Gaps = Literal["error", "silence"]

_TOUCHING = 0.011
"""Seconds: intervals that are no farther apart, or overlap no more, touch; files round times to frames."""
_END_FRAMES = 4
"""Frames that an alignment may end before the audio does: a window of 25 ms does not fit into the last ones."""


@dataclass(frozen=True)
class ImportedTokenizing(SpeechTokenizing):
    """How alignments of other tools become units.

    Args:
        alignments: a CTM file, or a folder with a ``.TextGrid`` for each utterance, in whatever subfolders.
        language: of the units.
        style: ``position_stress`` or ``plain``: English inventories, with positions made of a TextGrid's words where
            phones do not have them; ``as_is``: units are the phones that the alignments have.
        phone_map: file with a phone of theirs and a phone of ours on each line.
        silences: their names of silence; the empty one is that of unlabelled stretches in TextGrids.
        gaps: what a stretch without a phone is: ``error`` or ``silence``.
        tier: of the TextGrid that has the phones; ``name - phones`` is found too.
        word_tier: that has the words.
        utterance_key: key of the manifest with the utterance's name; None is the audio file's name without ending.
    """

    alignments: str
    language: str = "en"
    style: Style = "position_stress"
    phone_map: str | None = None
    silences: Sequence[str] = ("", "sil", "SIL", "sp", "<eps>")
    gaps: Gaps = "error"
    tier: str = "phones"
    word_tier: str = "words"
    utterance_key: str | None = None

    def __post_init__(self) -> None:
        for key, kind in (("style", Style), ("gaps", Gaps)):
            if getattr(self, key) not in get_args(kind):
                raise InputError(f"{key} is {getattr(self, key)!r}, expected one of {', '.join(get_args(kind))}")
        if self.style != "as_is" and self.language != "en":
            raise InputError(f"style={self.style} is English's; language={self.language} needs style=as_is")
        object.__setattr__(self, "silences", tuple(self.silences))

    def inventory(self) -> UnitInventory:
        """English phonemes, or for ``as_is`` silence and all phones in the alignments, sorted."""
        if self.style != "as_is":
            return phoneme_inventory(self.style)
        store = _Store(self)
        renamed = {self.renamed.get(label, label) for label in store.labels()}
        phones = sorted(renamed - {SILENCE, *self.silences})
        return UnitInventory("phoneme", self.language, FRAME_RATE, (SILENCE, *phones), silence=SILENCE)

    def make(self) -> "ImportedTokenizer":
        """The tokenizer."""
        return ImportedTokenizer(self)

    def files(self) -> Sequence[str]:
        """The CTM file and the phone map; files in a folder are not compared when a job is resumed."""
        return [path for path in (self.alignments, self.phone_map) if path is not None and Path(path).is_file()]

    @cached_property
    def renamed(self) -> dict[str, str]:
        """Their phones -> ours."""
        if self.phone_map is None:
            return {}
        renamed = {}
        for number, line in iter_lines(self.phone_map):
            if len(pair := line.split()) != 2:
                raise InputError(
                    f"expected a phone and what it becomes, found {line.strip()!r}", self.phone_map, number
                )
            renamed[pair[0]] = pair[1]
        return renamed


class _Store:
    """The alignments by name of utterance."""

    def __init__(self, how: ImportedTokenizing):
        self._how = how
        path = Path(how.alignments)
        self._ctm: CtmFile | None = None
        self._grids: dict[str, Path] = {}
        if path.is_dir():
            for file in sorted(files_below(path)):
                if file.suffix.lower() == ".textgrid":
                    if file.stem in self._grids:
                        raise InputError(f"the same name as {self._grids[file.stem]}", file)
                    self._grids[file.stem] = file
            if not self._grids:
                raise InputError("no .TextGrid files in it", path)
        elif path.is_file():
            self._ctm = CtmFile(path)
        else:
            raise InputError("no such CTM file, or folder of TextGrids (alignments)", path)

    def labels(self) -> set[str]:
        """All phones."""
        if self._ctm is not None:
            return self._ctm.labels()
        return {interval.label for name in self._grids for interval in self.get(name)[0]}

    def get(self, name: str) -> tuple[list[Interval], list[Interval], Path]:
        """Phones, words (none in a CTM), and the file that they stand in.

        Raises:
            SkipItem: if there is no such utterance.
        """
        if self._ctm is not None:
            if name not in self._ctm:
                raise SkipItem(f"no alignment of {name!r}")
            return self._ctm.intervals(name), [], self._ctm.path
        if name not in self._grids:
            raise SkipItem(f"no alignment of {name!r}")
        path = self._grids[name]
        tiers = read_textgrid(path)
        phones, words = (find_tier(tiers, wanted) for wanted in (self._how.tier, self._how.word_tier))
        if phones is None:
            raise InputError(
                f"no tier {self._how.tier!r}; it has {', '.join(map(repr, tiers)) or 'none'} (option tier)", path
            )
        return phones, words or [], path


class ImportedTokenizer(SpeechTokenizer):
    """Looks utterances up in alignments.

    Args:
        tokenizing: how.
    """

    def __init__(self, tokenizing: ImportedTokenizing):
        self._how = tokenizing
        self._store = _Store(tokenizing)
        self._known = None if tokenizing.style == "as_is" else frozenset(phoneme_inventory(tokenizing.style).symbols)

    def tokenize(self, utterance: SpeechInput) -> SpeechUnits:
        """The units of an utterance; raises at gaps, overlaps, unknown phones, or another length than the audio's."""
        phones, words, path = self._store.get(self._name(utterance.record))
        if not phones:
            raise SkipItem("an alignment without phones")
        frames = round(len(utterance.samples) * FRAME_RATE / self.sample_rate)
        try:
            filled = self._without_gaps(phones, frames / FRAME_RATE)
            units = self._units(filled, words)
        except InputError as error:
            if error.path is not None:
                raise
            # of the file at fault, not of the manifest
            raise InputError(f"{path}: {error.reason}") from error
        durations = whole_frames([interval.end for interval in filled], frames)
        return SpeechUnits(*merged_silences(units, durations))

    def _name(self, record: dict[str, Any]) -> str:
        key = self._how.utterance_key
        if key is None:
            return Path(record["audio_filepath"]).stem
        if key not in record:
            raise InputError(f"no key {key!r} (utterance_key)")
        return str(record[key])

    def _without_gaps(self, phones: list[Interval], seconds: float) -> list[Interval]:
        """Intervals that touch, from the beginning to the end of the audio."""
        filled: list[Interval] = []
        at = 0.0
        for phone in phones:
            where = f"{phone.label!r} at {phone.start:.3f} s" + (f" (line {phone.line})" if phone.line else "")
            if phone.end < phone.start:
                raise InputError(f"{where} ends before it begins")
            if phone.start < at - _TOUCHING:
                raise InputError(f"{where} overlaps with what ends at {at:.3f} s")
            if phone.start > at + _TOUCHING:
                filled.append(self._gap(at, phone.start))
            filled.append(phone._replace(start=at))
            at = phone.end
        tolerance = _END_FRAMES / FRAME_RATE
        if at > seconds + tolerance:
            raise InputError(f"it ends at {at:.3f} s, the audio at {seconds:.3f} s; do they belong together?")
        if at < seconds - tolerance:
            filled.append(self._gap(at, seconds))
        return filled

    def _gap(self, start: float, end: float) -> Interval:
        if self._how.gaps == "error":
            raise InputError(
                f"nothing from {start:.3f} to {end:.3f} s; gaps=silence takes what is missing for silence"
            )
        return Interval(start, end, self._how.silences[0] if self._how.silences else SILENCE)

    def _units(self, phones: list[Interval], words: list[Interval]) -> list[str]:
        units: list[str] = []
        for position, phone in enumerate(phones):
            label = self._how.renamed.get(phone.label, phone.label)
            if label in (*self._how.silences, SILENCE):
                units.append(SILENCE)
                continue
            unit = label
            if self._how.style == "plain":
                unit = base_phone(label)
            elif self._how.style == "position_stress" and label not in (self._known or ()) and words:
                unit = f"{label}_{position_in_word(phones, position, words)}"
            if self._known is not None and unit not in self._known:
                positioned = bool(words) or self._how.style == "plain"
                raise InputError(
                    f"{phone.label!r} at {phone.start:.3f} s is not a phone of style={self._how.style}"
                    f"{'' if positioned else ', and there are no words from which its position would be known'}; "
                    "see the options style, phone_map and silences"
                )
            units.append(unit)
        return units

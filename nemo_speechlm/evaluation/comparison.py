"""Two results of ``speechlm_evaluate.py`` on the same utterances, side by side."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from nemo_speechlm.data.audio.utterances import seconds_of
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.evaluation.report import NAMES, percent
from nemo_speechlm.evaluation.significance import Comparison, compare, groups_drawn
from nemo_speechlm.files import Record, atomic_write

MEASURES = {**NAMES, "error": "labels"}
"""Error rates and the key of the counts behind each; ``error``, of classes, is that of ``probe.py``."""


@dataclass(frozen=True)
class Pairing:
    """Utterances with the errors that two systems made.

    Attributes:
        paths: the files of A and B.
        measure: one of ``MEASURES``.
        records: the records of A and B, utterance by utterance.
        counts: the errors of A and B in each.
    """

    paths: tuple[Path, Path]
    measure: str
    records: list[tuple[Record, Record]]
    counts: list[tuple[ErrorCounts, ErrorCounts]]

    @classmethod
    def read(cls, a: str | Path, b: str | Path, measure: str = "wer") -> "Pairing":
        """Read both files, which may have the utterances in another order.

        Raises:
            InputError: if they are not of the same utterances with the same references, or lack the measure.
        """
        if measure not in MEASURES:
            raise InputError(f"measure is {measure!r}, expected one of {', '.join(MEASURES)}")
        first, second = (_read(Path(path), MEASURES[measure]) for path in (a, b))
        for path, one, other in ((a, first, second), (b, second, first)):
            if missing := [key for key in other if key not in one]:
                name = f"{missing[0][0]} from {missing[0][1]:g} s on"
                raise InputError(f"{len(missing)} utterances of the other file are not in it, such as {name}", path)
        records = [(first[key], second[key]) for key in first]
        for mine, yours in records:
            if mine["text"] != yours["text"]:
                raise InputError(
                    f"{mine['audio_filepath']}: the reference is {yours['text'][:40]!r}, {mine['text'][:40]!r} in {a}",
                    b,
                )
        counts = [tuple(ErrorCounts(**r[MEASURES[measure]]) for r in pair) for pair in records]
        for (mine, _), (ours, theirs) in zip(records, counts, strict=True):
            if ours.length != theirs.length:
                raise InputError(
                    f"{mine['audio_filepath']}: the reference has {theirs.length} {MEASURES[measure]}, {ours.length} "
                    f"in {a}; evaluate both with the same phonemizer and units_field",
                    b,
                )
        return cls((Path(a), Path(b)), measure, records, counts)  # type: ignore[arg-type]

    def compare(self, draw_by: str | None = None, level: float = 0.95, draws: int = 10000) -> Comparison:
        """The paired bootstrap test.

        Raises:
            InputError: if there are no references, or no utterance has the field ``draw_by``.
        """
        groups = groups_drawn([one for one, _ in self.records], draw_by, "utterance", self.paths[0])
        a, b = zip(*self.counts, strict=True)
        try:
            return compare(a, b, groups, level, draws)
        except ValueError as error:
            raise InputError(str(error), self.paths[0]) from error

    def totals(self) -> tuple[ErrorCounts, ErrorCounts]:
        """Errors of A and B over all utterances."""
        a, b = zip(*self.counts, strict=True)
        return reduce(add, a), reduce(add, b)

    def table(self, comparison: Comparison, level: float = 0.95) -> str:
        """For a terminal."""
        name = self.measure.upper()
        lines = [f"{'':4}{name:>9}{'errors':>9}{'of':>9}"]
        for letter, counts, path in zip("AB", self.totals(), self.paths, strict=True):
            lines.append(f"{letter:4}{percent(counts.rate):>9}{counts.errors:>9}{counts.length:>9}  {path}")
        better = sum(b.errors < a.errors for a, b in self.counts)
        worse = sum(b.errors > a.errors for a, b in self.counts)
        interval = f"{comparison.interval.low:+.2%} to {comparison.interval.high:+.2%}"
        lines += [
            f"B - A: {comparison.difference:+.2%} ({level:.0%} between {interval}), p = {comparison.p_value:.4f}",
            f"B is better on {better} utterances, worse on {worse}, equal on {len(self.counts) - better - worse}; "
            f"better over all in {comparison.better:.1%} of resamplings",
        ]
        return "\n".join(lines)

    def changes(self, count: int) -> Iterator[str]:
        """The utterances that B changed most, for better and for worse."""
        gains = [b.errors - a.errors for a, b in self.counts]
        order = sorted(range(len(gains)), key=lambda i: gains[i])
        for title, picked in (("better", order[:count]), ("worse", order[::-1][:count])):
            picked = [i for i in picked if (gains[i] < 0 if title == "better" else gains[i] > 0)]
            if picked:
                yield f"\nB is {title}:"
            for i in picked:
                one, other = self.records[i]
                yield f"  {one['audio_filepath']} ({gains[i]:+d} errors)"
                yield f"    reference  {one['text']}"
                yield f"    A          {one['pred_text']}"
                yield f"    B          {other['pred_text']}"


def write_comparison(path: str | Path, pairing: Pairing, comparison: Comparison) -> None:
    """Write a comparison as one JSON object."""
    a, b = pairing.totals()
    content: dict[str, Any] = {
        "a": str(pairing.paths[0]),
        "b": str(pairing.paths[1]),
        "measure": pairing.measure,
        "utterances": len(pairing.records),
        "rate_a": a.rate,
        "rate_b": b.rate,
        **asdict(comparison),
    }
    with atomic_write(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _read(path: Path, counts: str) -> dict[tuple[str, float], Record]:
    found: dict[tuple[str, float], Record] = {}
    for number, record in read_manifest(path, ["audio_filepath", "text", "pred_text", counts]):
        key = (record["audio_filepath"], seconds_of(record, "offset", path, number) or 0.0)
        if key in found:
            raise InputError(f"{key[0]} is there twice", path, number)
        found[key] = record
    return found

"""Error rates of a test set: a line per utterance, a summary with confidence intervals and splits, a table."""

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.error_rates import ErrorCounts, align_words, character_errors, count_errors, word_errors
from nemo_speechlm.evaluation.significance import confidence_interval, groups_drawn
from nemo_speechlm.files import Record, atomic_write, refuse_overwrite

NAMES = {"wer": "words", "cer": "characters", "per": "phones"}
"""Error rates and the key of the counts behind each, in a line and in a summary."""

Phones = Callable[[Record, str, str], tuple[Sequence[str], Sequence[str]]]
"""The phones of a record's reference and of its hypothesis."""


@dataclass(frozen=True)
class ReportFiles:
    """Where a report goes.

    The summary is removed before any other file is replaced, and written last: where it is, the report is whole.

    Attributes:
        utterances: JSON lines, one per utterance.
        summary: one JSON object.
        skipped: JSON lines with what was left out; absent if nothing was.
        page: the worst utterances, to look at.
        tuning: error rates of the weights that were tried; absent if none were.
    """

    utterances: Path
    summary: Path
    skipped: Path
    page: Path
    tuning: Path

    @classmethod
    def at(cls, output: str | Path, overwrite: bool = False) -> "ReportFiles":
        """Plan the files: in a folder, or beside a file named ``*.jsonl`` or ``*.json`` that holds the utterances.

        Raises:
            InputError: if there is a report, or a file of the name given, and it must not be overwritten.
        """
        output = Path(output)
        endings = (".summary.json", ".skipped.jsonl", ".html", ".tuning.csv")
        if output.suffix in (".json", ".jsonl"):
            refuse_overwrite(output, overwrite)
            files = cls(output, *(output.with_suffix(ending) for ending in endings))
        else:
            names = ("utterances.jsonl", "summary.json", "skipped.jsonl", "worst.html", "tuning.csv")
            files = cls(*(output / name for name in names))
        refuse_overwrite(files.summary, overwrite)
        return files


@dataclass(frozen=True)
class ReportOptions:
    """What a report holds beyond word and character error rates.

    Args:
        phones: makes the phones for PER; None leaves it out.
        split_by: manifest fields; each gets a table with a row per value.
        draws: resamplings for confidence intervals; 0 leaves them out.
        level: their confidence.
        draw_by: a manifest field whose values are resampled as a whole, such as the speaker; None: utterances.
    """

    phones: Phones | None = None
    split_by: tuple[str, ...] = ()
    draws: int = 1000
    level: float = 0.95
    draw_by: str | None = None

    def check(self, records: Sequence[Record]) -> None:
        """Raise if the records of a manifest lack a field of ``split_by`` or ``draw_by``.

        Raises:
            InputError: naming the option and the field.
        """
        groups_drawn(records, self.draw_by)
        for name in self.split_by:
            if not any(name in record for record in records):
                raise InputError(f"split_by: no line of the manifest has {name!r}")


@dataclass(frozen=True)
class RecognitionReport:
    """References and hypotheses with their errors.

    Attributes:
        records: manifest records with ``pred_text``, ``alignment``, the rates, and the counts behind them.
        totals: of each rate in ``NAMES`` that was asked for, the errors over all.
        counts: the same of each utterance.
        options: what was asked for.
        scores: other figures of the whole set, such as BLEU, by name.
    """

    records: list[Record]
    totals: dict[str, ErrorCounts]
    counts: dict[str, list[ErrorCounts]]
    options: ReportOptions = field(default_factory=ReportOptions)
    scores: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        references: Sequence[str],
        hypotheses: Sequence[str],
        options: ReportOptions | None = None,
        scores: Mapping[str, Any] | None = None,
    ) -> "RecognitionReport":
        """Compare hypotheses with references, record by record; both in Unicode's composed form (NFC)."""
        options = options or ReportOptions()
        options.check(records)
        rates = ("wer", "cer") if options.phones is None else ("wer", "cer", "per")
        counts: dict[str, list[ErrorCounts]] = {rate: [] for rate in rates}
        lines = []
        for record, *texts in zip(records, references, hypotheses, strict=True):
            reference, hypothesis = (unicodedata.normalize("NFC", text) for text in texts)
            own = {"wer": word_errors(reference, hypothesis), "cer": character_errors(reference, hypothesis)}
            if options.phones is not None:
                own["per"] = count_errors(*options.phones(record, reference, hypothesis))
            for rate in rates:
                counts[rate].append(own[rate])
            lines.append(
                {
                    **record,
                    "text": reference,
                    "pred_text": hypothesis,
                    **{rate: own[rate].rate for rate in rates},
                    **{NAMES[rate]: asdict(own[rate]) for rate in rates},
                    "alignment": align_words(reference, hypothesis),
                }
            )
        totals = {rate: reduce(add, counts[rate], ErrorCounts()) for rate in rates}
        return cls(lines, totals, counts, options, scores or {})

    def summary(self, **facts: Any) -> dict[str, Any]:
        """The totals as one object; rates are fractions, over all words (or characters, phones) together."""
        parts = {
            name: {value: self._part(rows) for value, rows in values.items()} for name, values in self.splits().items()
        }
        whole = self._part(range(len(self.records)))
        return {**facts, **whole, **self.scores, **({"splits": parts} if parts else {})}

    def splits(self) -> dict[str, dict[str, list[int]]]:
        """Rows of the utterances by field and value, in the order of the values."""
        found: dict[str, dict[str, list[int]]] = {}
        for name in self.options.split_by:
            values = [str(record.get(name, "")) for record in self.records]
            found[name] = {value: [i for i, v in enumerate(values) if v == value] for value in sorted(set(values))}
        return found

    def _part(self, rows: Sequence[int]) -> dict[str, Any]:
        part: dict[str, Any] = {"utterances": len(rows)}
        groups = groups_drawn([self.records[i] for i in rows], self.options.draw_by)
        for rate, counts in self.counts.items():
            own = [counts[i] for i in rows]
            total = reduce(add, own, ErrorCounts())
            part |= {rate: total.rate, NAMES[rate]: asdict(total)}
            if self.options.draws:
                interval = confidence_interval(own, groups, self.options.level, self.options.draws)
                part[f"{rate}_interval"] = None if interval is None else [interval.low, interval.high]
        return part

    def write(
        self,
        files: ReportFiles,
        skipped: Iterable[InputError] = (),
        write_page: Callable[[Mapping[str, Any]], None] | None = None,
        **facts: Any,
    ) -> dict[str, Any]:
        """Write the report's files, the summary last.

        A list of what was left out and a page of an earlier report do not stay beside it.

        Args:
            files: where to.
            skipped: lines that were left out.
            write_page: writes the page of the worst utterances, given the summary; None: there is no page.
            facts: for the summary.

        Returns:
            the summary.
        """
        left_out = [{"file": error.path, "line": error.line, "reason": error.reason} for error in skipped]
        summary = self.summary(**facts, skipped=len(left_out))
        for path in (files.summary, files.skipped, files.page):
            path.unlink(missing_ok=True)
        write_manifest(files.utterances, self.records)
        if left_out:
            write_manifest(files.skipped, left_out)
        if write_page is not None:
            write_page(summary)
        with atomic_write(files.summary) as file:
            json.dump(summary, file, indent=2, ensure_ascii=False)
            file.write("\n")
        return summary

    def table(self) -> str:
        """The totals for a terminal."""
        lines = [f"{'':12}{'rate':>9}{'errors':>9}{'subst.':>9}{'ins.':>9}{'del.':>9}{'of':>9}"]
        for name, counts in self.totals.items():
            numbers = (counts.errors, counts.substitutions, counts.insertions, counts.deletions, counts.length)
            lines.append(f"{name.upper():12}{percent(counts.rate):>9}" + "".join(f"{number:>9}" for number in numbers))
        if not self.totals["wer"].length:
            lines.append("- is undefined: no reference has a word. Errors here are words that nobody said.")
        return "\n".join(lines)


def split_tables(summary: Mapping[str, Any]) -> str:
    """The rates of each part of a summary's splits, for a terminal."""
    lines = []
    for name, values in summary.get("splits", {}).items():
        rates = [rate for rate in NAMES if rate in summary]
        width = max(12, *(len(value) + 1 for value in values))
        lines.append("\n" + f"{name:{width}}{'utterances':>11}" + "".join(f"{rate.upper():>9}" for rate in rates))
        for value, part in values.items():
            cells = "".join(f"{percent(part[rate]):>9}" for rate in rates)
            lines.append(f"{value:{width}}{part['utterances']:>11}{cells}")
    return "\n".join(lines)


def percent(rate: float | None) -> str:
    """A rate in percent, for people to read."""
    return "-" if rate is None else f"{rate:.2%}"

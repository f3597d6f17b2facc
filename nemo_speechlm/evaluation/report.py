"""Error rates of a test set: a line per utterance, a summary, a table."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo_speechlm.data.manifest import Record, write_manifest
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.error_rates import ErrorCounts, character_errors, word_errors
from nemo_speechlm.files import atomic_write, refuse_overwrite


@dataclass(frozen=True)
class ReportFiles:
    """Where a report goes.

    Attributes:
        utterances: JSON lines, one per utterance.
        summary: one JSON object.
        skipped: JSON lines with what was left out; absent if nothing was.
    """

    utterances: Path
    summary: Path
    skipped: Path

    @classmethod
    def at(cls, output: str | Path, overwrite: bool = False) -> "ReportFiles":
        """Plan the files: in a folder, or beside a file named ``*.jsonl`` or ``*.json`` that holds the utterances.

        Raises:
            InputError: if any exists and must not be overwritten.
        """
        output = Path(output)
        if output.suffix in (".json", ".jsonl"):
            files = cls(output, output.with_suffix(".summary.json"), output.with_suffix(".skipped.jsonl"))
        else:
            files = cls(output / "utterances.jsonl", output / "summary.json", output / "skipped.jsonl")
        for path in (files.utterances, files.summary):
            refuse_overwrite(path, overwrite)
        return files


@dataclass(frozen=True)
class RecognitionReport:
    """References and hypotheses with their errors.

    Attributes:
        records: manifest records with ``pred_text``, ``wer``, ``cer``, ``words``, ``characters``.
        words: errors in words over all.
        characters: errors in characters over all.
    """

    records: list[Record]
    words: ErrorCounts
    characters: ErrorCounts

    @classmethod
    def of(
        cls, records: Sequence[Record], references: Sequence[str], hypotheses: Sequence[str]
    ) -> "RecognitionReport":
        """Compare hypotheses with references, record by record."""
        lines, words, characters = [], ErrorCounts(), ErrorCounts()
        for record, reference, hypothesis in zip(records, references, hypotheses, strict=True):
            own_words, own_characters = word_errors(reference, hypothesis), character_errors(reference, hypothesis)
            words, characters = words + own_words, characters + own_characters
            lines.append(
                {
                    **record,
                    "text": reference,
                    "pred_text": hypothesis,
                    "wer": own_words.rate,
                    "cer": own_characters.rate,
                    "words": asdict(own_words),
                    "characters": asdict(own_characters),
                }
            )
        return cls(lines, words, characters)

    def summary(self, **facts: Any) -> dict[str, Any]:
        """The totals as one object; rates are fractions, over all words (or characters) together."""
        return {
            **facts,
            "utterances": len(self.records),
            "wer": self.words.rate,
            "cer": self.characters.rate,
            "words": asdict(self.words),
            "characters": asdict(self.characters),
        }

    def write(self, files: ReportFiles, skipped: Iterable[InputError] = (), **facts: Any) -> None:
        """Write the report's files; ``facts`` go into the summary."""
        write_manifest(files.utterances, self.records)
        left_out = [{"file": error.path, "line": error.line, "reason": error.reason} for error in skipped]
        if left_out:
            write_manifest(files.skipped, left_out)
        with atomic_write(files.summary) as file:
            json.dump(self.summary(**facts, skipped=len(left_out)), file, indent=2, ensure_ascii=False)
            file.write("\n")

    def table(self) -> str:
        """The totals for a terminal."""
        lines = [f"{'':12}{'rate':>9}{'errors':>9}{'subst.':>9}{'ins.':>9}{'del.':>9}{'of':>9}"]
        for name, counts in (("WER", self.words), ("CER", self.characters)):
            rate = "-" if counts.rate is None else f"{counts.rate:.2%}"
            numbers = (counts.errors, counts.substitutions, counts.insertions, counts.deletions, counts.length)
            lines.append(f"{name:12}{rate:>9}" + "".join(f"{number:>9}" for number in numbers))
        return "\n".join(lines)

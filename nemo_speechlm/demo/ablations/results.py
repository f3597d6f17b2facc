"""What came out: error rates of the rows over all seeds with intervals, tests, a CSV, a table and a curve."""

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import DictConfig

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.demo.ablations.rows import Row
from nemo_speechlm.demo.ablations.steps import decoders_of, result_folder, seeds_of, updates
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.evaluation.plots import STYLE, save_figure
from nemo_speechlm.evaluation.report import NAMES
from nemo_speechlm.evaluation.significance import ConfidenceInterval, compare, confidence_interval, groups_drawn
from nemo_speechlm.files import atomic_write

MEASURES = ("wer", "cer")


@dataclass(frozen=True)
class RowResult:
    """A row with the errors of its seeds.

    Attributes:
        row: the row.
        decoder: the kind of recognizer that it was fine-tuned to.
        counts: by measure, the errors in each utterance, those of all seeds added.
        rates: by measure, the rate of each seed.
        groups: what is resampled as a whole, of each utterance; None: utterances.
        keys: of the utterances, in order.
        sentences: of text in pretraining.
    """

    row: Row
    decoder: str
    counts: Mapping[str, list[ErrorCounts]]
    rates: Mapping[str, list[float]]
    groups: list[str] | None
    keys: list[tuple[str, float]]
    sentences: int

    def rate(self, measure: str) -> float:
        """The mean over the seeds."""
        return reduce(add, self.counts[measure]).rate or 0.0

    def interval(self, measure: str, level: float, draws: int) -> ConfidenceInterval | None:
        """By bootstrap over the test set; seeds are not drawn."""
        return confidence_interval(self.counts[measure], self.groups, level, draws) if draws else None


def read_results(cfg: DictConfig, folder: Path, rows: Sequence[Row], lost: Collection[Path] = ()) -> list[RowResult]:
    """The rows whose evaluations are there, with every seed or with some; one kind of recognizer after another.

    Evaluations whose summaries are among ``lost`` count as if they were not there.
    """
    found = []
    for decoder in decoders_of(cfg):
        for row in rows:
            folders = [result_folder(folder, row, decoder, seed) for seed in seeds_of(cfg)]
            summaries = {path: path / "summary.json" for path in folders}
            done = [path for path, summary in summaries.items() if summary.exists() and summary not in lost]
            if done:
                found.append(_row_result(folder, row, decoder, done, cfg.draw_by))
    return found


def _row_result(folder: Path, row: Row, decoder: str, done: Sequence[Path], draw_by: str | None) -> RowResult:
    seeds = [[record for _, record in read_manifest(path / "utterances.jsonl")] for path in done]
    counts = {
        measure: [
            reduce(add, (ErrorCounts(**record[NAMES[measure]]) for record in records))
            for records in zip(*seeds, strict=True)
        ]
        for measure in MEASURES
    }
    summaries = [json.loads((path / "summary.json").read_text(encoding="utf-8")) for path in done]
    rates = {measure: [summary[measure] for summary in summaries] for measure in MEASURES}
    first = seeds[0]
    groups = groups_drawn(first, draw_by, "utterance", done[0] / "utterances.jsonl")
    keys = [(record["audio_filepath"], record.get("offset") or 0.0) for record in first]
    return RowResult(row, decoder, counts, rates, groups, keys, _sentences(folder, row))


def _sentences(folder: Path, row: Row) -> int:
    if not row.reads_text:
        return 0
    name = "text" if row.text is None else f"text_{row.text}"
    with open(folder / f"{name}.json", encoding="utf-8") as file:
        return sum(1 for _ in file)


def p_values(results: Sequence[RowResult], against: str, draws: int) -> dict[tuple[str, str], float]:
    """How surely each row's WER differs from that of one of them with the same kind of recognizer.

    Returns:
        By row and kind of recognizer, the p of a paired bootstrap test.
    """
    others = {result.decoder: result for result in results if result.row.name == against}
    found = {}
    for result in results:
        other = others.get(result.decoder, result)
        same = len(result.rates["wer"]) == len(other.rates["wer"]) and result.keys == other.keys
        if result is not other and same:
            with suppress(ValueError):  # one speaker alone, no words
                test = compare(other.counts["wer"], result.counts["wer"], result.groups, draws=max(draws, 1000))
                found[result.row.name, result.decoder] = test.p_value
    return found


def write_csv(
    path: Path, cfg: DictConfig, results: Sequence[RowResult], tests: Mapping[tuple[str, str], float]
) -> None:
    """Write a line for each row."""
    columns = ["row", "title", "system", "decoder", "sentences", "pretrain_updates", "finetune_updates", "seeds"]
    for measure in MEASURES:
        columns += [measure, f"{measure}_low", f"{measure}_high", f"{measure}_of_seeds"]
    with atomic_write(path) as file:
        writer = csv.writer(file)
        writer.writerow([*columns, f"p_wer_against_{cfg.against}"])
        for result in results:
            row = result.row
            cells: list[object] = [
                row.name, row.title, row.system or "", result.decoder, result.sentences, *updates(cfg, row),
                len(result.rates["wer"]),
            ]  # fmt: skip
            for measure in MEASURES:
                interval = result.interval(measure, cfg.confidence, cfg.draws)
                bounds = ("", "") if interval is None else (f"{interval.low:.4f}", f"{interval.high:.4f}")
                seeds = ";".join(f"{rate:.4f}" for rate in result.rates[measure])
                cells += [f"{result.rate(measure):.4f}", *bounds, seeds]
            p_value = tests.get((row.name, result.decoder))
            writer.writerow([*cells, "" if p_value is None else f"{p_value:.4f}"])


def table(
    cfg: DictConfig, results: Sequence[RowResult], tests: Mapping[tuple[str, str], float], rows: Sequence[Row]
) -> str:
    """The rows for a terminal, one kind of recognizer after another; rates in percent."""
    seeds = (
        f"{cfg.seeds} seeds, their mean" if cfg.seeds > 1 else "one seed; another can move a rate by several points"
    )
    lines = [
        f"{cfg.pretrain_steps + cfg.finetune_steps} updates in all for each row; {seeds}; {cfg.confidence:.0%} "
        f"intervals over {cfg.draw_by or 'utterance'}s of the test set.",
    ]
    for decoder in decoders_of(cfg):
        there = {result.row.name: result for result in results if result.decoder == decoder}
        lines += [
            "",
            f"{decoder:<34}{'sentences':>10}{'WER %':>7}{'interval':>15}{'CER %':>7}{'interval':>15}{'p':>8}",
            *(_table_line(cfg, result, tests) for result in there.values()),
            *(f"{row.title:<34}  not done" for row in rows if row.name not in there),
        ]
    if tests:
        lines += ["", f"p: of a difference in WER from {cfg.against!r}, paired bootstrap"]
    return "\n".join(lines)


def _table_line(cfg: DictConfig, result: RowResult, tests: Mapping[tuple[str, str], float]) -> str:
    cells = ""
    for measure in MEASURES:
        interval = result.interval(measure, cfg.confidence, cfg.draws)
        span = "" if interval is None else f"{100 * interval.low:.1f} - {100 * interval.high:.1f}"
        cells += f"{100 * result.rate(measure):>7.1f}{span:>15}"
    p_value = tests.get((result.row.name, result.decoder))
    test = "" if p_value is None else f"{p_value:.3f}"
    done = len(result.rates["wer"])
    some = "" if done == cfg.seeds else f"  ({done} of {cfg.seeds} seeds)"
    return f"{result.row.title:<34}{result.sentences:>10}{cells}{test:>8}{some}".rstrip()


def plot_text_curve(cfg: DictConfig, results: Sequence[RowResult], output: Path) -> bool:
    """Draw WER against sentences of text, a line for each kind of recognizer; returns whether there are two points."""
    amounts = sorted({result.sentences for result in results if result.row.curve})
    if len(amounts) < 2:
        return False
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.4), layout="constrained")
        panel = figure.subplots()
        for number, decoder in enumerate(decoders_of(cfg)):
            _draw_curve(panel, cfg, [result for result in results if result.decoder == decoder], amounts, f"C{number}")
        if panel.get_legend_handles_labels()[1]:
            panel.legend()
        panel.set_xticks(range(len(amounts)), [f"{amount:,}" for amount in amounts])
        panel.set_xlabel("sentences of text in pretraining")
        panel.set_ylabel("WER %")
        save_figure(figure, output)
    return True


def _draw_curve(panel: Axes, cfg: DictConfig, results: Sequence[RowResult], amounts: list[int], color: str) -> None:
    kind = results[0].decoder.upper() if results and len(decoders_of(cfg)) > 1 else ""
    points = sorted((result for result in results if result.row.curve), key=lambda result: result.sentences)
    places = [amounts.index(point.sentences) for point in points]
    values = [100 * point.rate("wer") for point in points]
    intervals = [point.interval("wer", cfg.confidence, cfg.draws) for point in points]
    bars = None
    if points and all(interval is not None for interval in intervals):
        pairs = [(v - 100 * i.low, 100 * i.high - v) for v, i in zip(values, intervals, strict=True) if i]
        bars = list(zip(*((max(0.0, low), max(0.0, high)) for low, high in pairs), strict=True))
    if points:
        panel.errorbar(places, values, yerr=bars, marker="o", capsize=3, color=color, label=kind or None)
    for place, point in zip(places, points, strict=True):
        if len(point.rates["wer"]) > 1:
            panel.plot([place] * len(point.rates["wer"]), [100 * r for r in point.rates["wer"]], ".", color="C6")
    none = next((result for result in results if result.row.system is None), None)
    if none is not None:
        label = f"{none.row.title} {kind}".strip()
        panel.axhline(
            100 * none.rate("wer"), color=color if kind else "C6", linestyle="--", linewidth=0.8, label=label
        )

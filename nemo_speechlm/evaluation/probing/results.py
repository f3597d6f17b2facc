"""What a probe reaches on a test set: figures with intervals, a line per utterance, a test against another probe."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.comparison import MEASURES, Pairing
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.evaluation.probing.data import ProbeBatch, in_order
from nemo_speechlm.evaluation.probing.model import ProbeModel
from nemo_speechlm.evaluation.report import percent
from nemo_speechlm.evaluation.significance import confidence_interval, groups_drawn
from nemo_speechlm.files import Record, atomic_write, dump_line

RESULT, UTTERANCES, WEIGHTS = "result.json", "utterances.jsonl", "layer_weights.png"
"""Files in a probe's folder."""


@dataclass(frozen=True)
class Judged:
    """A test set with the answers of a probe.

    Attributes:
        records: manifest lines with ``text`` (the right answer), ``pred_text`` and the counts of errors.
        counts: errors of each utterance, by measure; the first measure is the task's.
    """

    records: list[Record]
    counts: dict[str, list[ErrorCounts]]

    def rates(self, draw_by: str | None = None, level: float = 0.95, draws: int = 1000) -> dict[str, Any]:
        """Each error rate with its bootstrap interval.

        Args:
            draw_by: a key of the manifest whose values are drawn as a whole, such as the speaker; None: utterances.
            level: of confidence.
            draws: resamplings; 0 leaves the intervals out.

        Raises:
            InputError: if no utterance has the key ``draw_by``.
        """
        groups = groups_drawn(self.records, draw_by, "line of the test manifest")
        found: dict[str, Any] = {}
        for measure, counts in self.counts.items():
            found[measure] = reduce(add, counts).rate
            if draws:
                interval = confidence_interval(counts, groups, level, draws)
                found[f"{measure}_interval"] = None if interval is None else [interval.low, interval.high]
        return found


@torch.inference_mode()
def judge(model: ProbeModel, manifest: str | Path | Sequence, batch_size: int, num_workers: int = 0) -> Judged:
    """Let a probe answer for every line of a manifest.

    Args:
        model: trained, on the device that it is to compute on; it is put into evaluation mode.
        manifest: JSON lines with the keys of the task; or several.
        batch_size: utterances.
        num_workers: processes that read.

    Raises:
        InputError: naming the line that cannot be used.
    """
    model.eval()
    data = model.dataset({"manifest_filepath": expand_shards(manifest), "num_workers": num_workers})
    loader: DataLoader = in_order(data, batch_size, num_workers)
    answers: list[list[int]] = [[] for _ in range(len(data))]
    for batch in tqdm(loader, desc="Testing", unit="batch"):
        moved = ProbeBatch(*(part.to(model.device) for part in batch))
        states, lengths = model.states(moved)
        for row, answer in zip(batch.rows.tolist(), model.answers(model(states, lengths), lengths), strict=True):
            answers[row] = answer
    targets = model.targets
    judged = [targets.errors(*pair) for pair in zip(data.examples.answers, answers, strict=True)]
    counts = {measure: [errors[measure] for errors in judged] for measure in targets.measures}
    records = [
        utterance.record
        | {"text": targets.text(right), "pred_text": targets.text(answer)}
        | {targets.measures[measure]: asdict(errors[measure]) for measure in targets.measures}
        for utterance, right, answer, errors in zip(
            data.examples.utterances, data.examples.answers, answers, judged, strict=True
        )
    ]
    return Judged(records, counts)


def write_result(folder: str | Path, judged: Judged, facts: Mapping[str, Any], **rates: Any) -> dict[str, Any]:
    """Write the lines and the result; returns the latter.

    Args:
        folder: of the probe.
        judged: what was measured.
        facts: what the result says beside it.
        rates: arguments of :meth:`Judged.rates`.
    """
    folder = Path(folder)
    measure = next(iter(judged.counts))
    result = {**facts, "measure": measure, **judged.rates(**rates), "utterances": len(judged.records)}
    if measure == "error":
        result["accuracy"] = 1 - result["error"]
    write_manifest(folder / UTTERANCES, judged.records)
    with atomic_write(folder / RESULT) as file:
        json.dump(result, file, indent=2, ensure_ascii=False)
        file.write("\n")
    return result


def compare_with(folder: str | Path, other: str | Path, draw_by: str | None, level: float, draws: int) -> str:
    """Test a probe against another one by paired bootstrap; writes ``against_<name>.json`` and returns a table.

    Args:
        folder: of the probe, B.
        other: folder of the other one, A, of the same task and test set.
        draw_by: see :meth:`Judged.rates`.
        level: of confidence.
        draws: resamplings.

    Raises:
        InputError: if the other folder holds no result, or one of another task or other utterances.
    """
    results = [_read(path) for path in (other, folder)]
    first, second = (result["measure"] for result in results)
    if first != second:
        raise InputError(f"its measure is {first}, expected {second}: the probe of another task", Path(other) / RESULT)
    pairing = Pairing.read(Path(other) / UTTERANCES, Path(folder) / UTTERANCES, second)
    comparison = pairing.compare(draw_by, level, draws)
    content = {
        "a": results[0]["model"], "b": results[1]["model"], "measure": second, "utterances": len(pairing.records),
        "rate_a": results[0][second], "rate_b": results[1][second], **asdict(comparison),
    }  # fmt: skip
    with atomic_write(Path(folder) / f"against_{Path(other).resolve().name}.json") as file:
        file.write(dump_line(content))
    return pairing.table(comparison, level)


def _read(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / RESULT
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such file; expected the folder of a probe that is complete", path) from error
    except ValueError as error:
        raise InputError(f"not JSON: {error}", path) from error


def summary_line(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    parts = []
    for measure in MEASURES:
        if measure in result:
            values = [result[measure], *(result.get(f"{measure}_interval") or ())]
            name = measure.upper()
            if measure == "error":
                name, values = "accuracy", [1 - values[0], *(1 - value for value in reversed(values[1:]))]
            first, *span = map(percent, values)
            parts.append(f"{name} {first}" + (f" ({span[0]} to {span[1]})" if span else ""))
    return f"{result['task']}, {result['model']}: {', '.join(parts)}; {result['utterances']} utterances"

"""From models and a manifest to a table and two pictures."""

import csv
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.checks import check_choice
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.evaluation.space.alignment import Alignment, align, read_spoken, restore_with_units, share
from nemo_speechlm.evaluation.space.pictures import PROJECTIONS, plot_alignment_scores, plot_space
from nemo_speechlm.files import atomic_write, refuse_overwrite

TABLE, SCORES, SPACE = "alignment.csv", "alignment.png", "space.png"
"""Files in the output folder."""

COLUMNS = [
    "model",
    "layer",
    "against",
    "unit_share",
    "unit_low",
    "unit_high",
    "phone_share",
    "phone_low",
    "phone_high",
]
COLUMNS += ["most_frequent_unit", "frames"]


def run_shared_space(cfg: DictConfig) -> list[Alignment]:
    """Measure and draw the models of ``cfg``; see ``conf/shared_space.yaml``.

    Raises:
        InputError: naming the file or line that does not fit, or an output that is there already.
        SpeechLMError: naming the key that is wrong.
    """
    check_choice("projection", cfg.projection, PROJECTIONS)
    output = Path(cfg.output)
    refuse_overwrite(output / TABLE, cfg.overwrite)
    models = [cfg.models] if isinstance(cfg.models, str) else list(cfg.models)
    if not models:
        raise SpeechLMError("models is empty; expected .nemo files of SpeechLM models")
    found = []
    for path, title in zip(models, titles(models), strict=True):
        model = restore_with_units(path, cfg.device)
        utterances = read_spoken(cfg.manifest, model.inventory, cfg.limit)
        found.append(align(model, utterances, title, cfg.points, cfg.seed))
    plot_space(found, PROJECTIONS[cfg.projection], cfg.phones, output / SPACE)
    plot_alignment_scores(found, cfg.confidence, cfg.draws, output / SCORES)
    rows = table(found, cfg.confidence, cfg.draws)
    with atomic_write(output / TABLE) as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    print(f"{'':24}{'layer':>10}{'own unit':>10}{'own phone':>11}")
    for row in rows:
        print(f"{row[0]:24.24}{row[1]:>10}{float(row[3]):>10.1%}{float(row[6]):>11.1%}")
    print("\n".join(str(output / name) for name in (TABLE, SCORES, SPACE)))
    return found


def titles(paths: Sequence[str]) -> list[str]:
    """Names of files, with their folders where two have the same.

    >>> titles(["a/x.nemo", "b/x.nemo", "y.nemo"])
    ['a/x', 'b/x', 'y']
    """
    stems = [Path(path).stem for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{Path(path).parent.name}/{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]


def table(alignments: Sequence[Alignment], level: float, draws: int) -> list[list[str]]:
    """The rows of ``COLUMNS``; shares with four digits."""
    rows = []
    for found in alignments:
        for score in found.scores:
            cells: list[str] = []
            for counts in (score.units, score.phones):
                value, interval = share(counts, level, draws)
                bounds = ("", "") if interval is None else (f"{interval.low:.4f}", f"{interval.high:.4f}")
                cells += [f"{value:.4f}", *bounds]
            frames = sum(count.length for count in score.units)
            rows.append([found.title, score.name, score.against, *cells, f"{found.most_frequent:.4f}", str(frames)])
    return rows

r"""Curves of a run, to lay beside one's own: a CSV and a picture, from the TensorBoard files that each run leaves.

    python benchmarks/reference_curves.py --runs pretrained=runs/speechlm_p_small --tags train_uctc val_text_cer \
        --table speechlm_p_small.csv --picture speechlm_p_small.png

The table has run, tag, step and value; a curve of many points is there as means of blocks. Several runs come into one
picture: ``--runs healthy=runs/a diverging=runs/b``.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.plots import plot_curves, read_scalars
from nemo_speechlm.files import atomic_write

POINTS = 60


def thinned(steps: np.ndarray, values: np.ndarray, points: int = POINTS) -> list[tuple[int, float]]:
    """At most so many points (step, value) of a curve: the last step of each block, and its mean."""
    blocks = min(points, len(steps))
    pairs = zip(np.array_split(steps, blocks), np.array_split(values, blocks), strict=True)
    return [(int(step[-1]), float(value.mean())) for step, value in pairs]


def rows(runs: dict[str, Path], tags: list[str]) -> list[tuple[str, str, int, str]]:
    """The lines of the table.

    Raises:
        InputError: if a folder has no curves.
    """
    found = []
    for name, folder in runs.items():
        scalars = read_scalars(folder)
        found += [
            (name, tag, step, f"{value:.5g}")
            for tag in tags
            if tag in scalars
            for step, value in thinned(*scalars[tag])
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", nargs="+", required=True, metavar="NAME=FOLDER", help="what stands in the legend, and a run's folder"
    )
    parser.add_argument("--tags", nargs="+", required=True, help="names of the curves, as TensorBoard has them")
    parser.add_argument("--table", required=True, type=Path, help="CSV file to write")
    parser.add_argument("--picture", required=True, type=Path, help="PNG or SVG file to write")
    arguments = parser.parse_args()
    if wrong := [run for run in arguments.runs if "=" not in run]:
        parser.error(f"--runs has {wrong[0]!r}, expected NAME=FOLDER")
    runs = {name: Path(folder) for name, _, folder in (run.partition("=") for run in arguments.runs)}
    try:
        plot_curves(runs, arguments.tags, arguments.picture)
        with atomic_write(arguments.table) as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["run", "tag", "step", "value"])
            table.writerows(rows(runs, arguments.tags))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

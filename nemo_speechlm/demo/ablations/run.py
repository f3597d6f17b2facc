"""An ablation from its config to its table."""

import shlex
from collections.abc import Collection
from pathlib import Path

import torch
from omegaconf import DictConfig

from nemo_speechlm.checks import check_whole
from nemo_speechlm.demo.ablations.results import p_values, plot_text_curve, read_results, table, write_csv
from nemo_speechlm.demo.ablations.rows import Data, Row, read_rows, rows_with_enough_text
from nemo_speechlm.demo.ablations.steps import ablation_steps
from nemo_speechlm.demo.workflow import StepsFailed, run_steps, step_state
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import atomic_write
from nemo_speechlm.jobs.engines.executor import available_cores


def run_ablation(cfg: DictConfig) -> None:
    """Run the rows' steps that are not done yet, write CSV, table and curve; ``cfg`` is ``conf/ablation_small.yaml``.

    Where steps fail, those that do not need them are done, and the table has what there is.

    Raises:
        SpeechLMError: if a key of ``cfg`` is wrong, or steps failed; then in the end.
    """
    folder = Path(cfg.output)
    rows = _rows(cfg)
    steps = ablation_steps(cfg, folder, rows)
    if cfg.dry_run:
        for step in steps:
            print(f"# {step.name}: {step_state(step, folder / 'logs')}\npython {shlex.join(step.command)}")
        return
    devices = [str(device) for device in cfg.devices]
    if len(set(devices)) < len(devices):
        raise SpeechLMError(f"devices is {devices}; expected each once")
    jobs = cfg.jobs or len(devices) or (1 if torch.cuda.is_available() else available_cores())
    check_whole("jobs", jobs, 1)
    failure = None
    try:
        run_steps(steps, folder / "logs", jobs, devices, cfg.keep_going)
    except StepsFailed as error:
        failure = error
    show_results(cfg, folder, rows, frozenset() if failure is None else failure.outputs)
    if failure is not None:
        raise failure


def _rows(cfg: DictConfig) -> list[Row]:
    wanted = read_rows(cfg.rows, None if cfg.only is None else list(cfg.only))
    if cfg.against not in cfg.rows:
        raise SpeechLMError(f"against is {cfg.against!r}, which is no row; there are: {', '.join(cfg.rows)}")
    text = None if cfg.data is None else Data.in_folder(cfg.data).text
    rows, without = rows_with_enough_text(wanted, text, cfg.corpus.sentences)
    for row in without:
        print(f"{row.name} is left out: the text has no more than {row.text:,} sentences")
    if not rows:
        raise SpeechLMError("no row is left: the text has fewer sentences than each of them wants")
    return rows


def show_results(cfg: DictConfig, folder: Path, rows: list[Row], lost: Collection[Path] = ()) -> None:
    """Write ``ablation.csv``, ``table.txt`` and ``text_curve.png`` from what is there, and print the table.

    Args:
        cfg: the ablation's.
        folder: of its output.
        rows: those wanted.
        lost: outputs of steps that failed now, or could not be done: what is there of them is of before.
    """
    results = read_results(cfg, folder, rows, lost)
    if not results:
        return
    tests = p_values(results, cfg.against, cfg.draws)
    write_csv(folder / "ablation.csv", cfg, results, tests)
    text = table(cfg, results, tests, rows)
    with atomic_write(folder / "table.txt") as file:
        file.write(text + "\n")
    drawn = plot_text_curve(cfg, results, folder / "text_curve.png")
    files = ["ablation.csv", "table.txt", *(["text_curve.png"] if drawn else [])]
    print(f"\n{text}\n\nIn {folder}: {', '.join(files)}; models (seed*/*.nemo), runs (seed*/runs/), logs (logs/)")

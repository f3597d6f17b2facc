r"""Kill a training with SIGKILL while it saves, and run the same command again; nothing is done by hand between.

    python benchmarks/kill_while_saving.py --work runs/killed_saving --kills 100

The training is one of a small model that saves after every update: the last checkpoint each time, a best one after
each validation. A watcher waits until a checkpoint is being written and kills the training at a moment drawn between
the beginning of the writing and a little after the usual end of it. Then the training is begun again in the same
folder, until it has been killed so often; at last it is left alone. Its weights must be those of a run that nobody
disturbed, bit for bit. Every start must go on from the newest checkpoint that was complete at the kill.

Each training is a process of its own, forked from one that has imported everything: a start takes a second.
"""

import argparse
import os
import random
import shutil
import signal
import statistics
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from nemo.core.classes import ModelPT
from omegaconf import DictConfig

from nemo_speechlm.models.common.pretrained import read_nemo
from nemo_speechlm.testing.configs import tiny_recipe
from nemo_speechlm.training.checkpoint_io import PREVIOUS, damage, is_last
from nemo_speechlm.training.recovery import step_of
from nemo_speechlm.training.run import train

OPEN_END = 1_000_000


class Weights(ModelPT):
    """A matrix that is drawn towards numbers which the step decides: what it becomes does not depend on stops."""

    def __init__(self, cfg: DictConfig, trainer: Trainer):
        super().__init__(cfg=cfg, trainer=trainer)
        self.weight = torch.nn.Parameter(torch.zeros(cfg.size, cfg.size))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """The loss of a step."""
        step = self.trainer.global_step
        return (self.weight - torch.sin(torch.arange(self.weight.shape[0]) * (step + 1.0))).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The figure that names checkpoints."""
        self.log("val_loss", -100.0 * self.trainer.global_step)  # each is the best so far, and has another name

    def setup_training_data(self, config: DictConfig) -> None:
        """Batches without end."""
        self._train_dl = torch.utils.data.DataLoader(Endless(), batch_size=None)

    def setup_validation_data(self, config: DictConfig) -> None:
        """One batch."""
        self._validation_dl = torch.utils.data.DataLoader([torch.zeros(1)], batch_size=None)

    @classmethod
    def list_available_models(cls) -> list[Any]:
        """None."""
        return []


class Endless(torch.utils.data.IterableDataset):
    """Batches that say nothing."""

    def __iter__(self):
        while True:
            yield torch.zeros(1)


def recipe(folder: Path, size: int, steps: int) -> DictConfig:
    """A recipe that saves after every update and validates after every third."""
    model = {
        "size": size, "train_ds": {"num_workers": 0}, "validation_ds": {"num_workers": 0},
        "optim": {"name": "adamw", "lr": 0.01},
    }  # fmt: skip
    cfg = tiny_recipe(folder, model, steps, val_check_interval=3, log_every_n_steps=1)
    cfg.exp_manager.update(exp_dir=str(folder), create_tensorboard_logger=True)
    cfg.save_every_minutes = 1e-9
    return cfg


def start(cfg: DictConfig, log: Path) -> int:
    """Fork a process that trains; returns its number. It exits with 0, or with 1 after an error (see the log)."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        train(cfg, lambda model, trainer: Weights(cfg=model, trainer=trainer))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def weights(output: Path) -> torch.Tensor:
    """The weights in a ``.nemo`` file."""
    return read_nemo(output).weights["weight"]


def writing(folder: Path, since: float = 0.0) -> Path | None:
    """The checkpoint that is being written under its other name, and not left from before a time of the clock."""
    for path in folder.glob(".partial.*.ckpt"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime > since:
                return path
    return None


def complete_step(folder: Path) -> int:
    """The step of the newest checkpoint that is sound; 0 if there is none."""
    named = [path for path in folder.glob("[!.]*.ckpt*") if path.suffix in (".ckpt", PREVIOUS)]
    return max((step_of(path) for path in named if damage(path) is None), default=0)


def state(folder: Path) -> str:
    """What a kill left: words for the table."""
    lasts = [path for path in folder.iterdir() if is_last(path) and not path.name.startswith(".")]
    words = ["half-written file"] if writing(folder) is not None else []
    words += ["marker of NeMo"] if next(folder.glob("*-unfinished"), None) else []
    current = [path for path in lasts if path.suffix != PREVIOUS]
    words += ["two last files"] if len(current) > 1 else ["no last file"] if not current else []
    return " + ".join(words) or "all in order"


def kill_while_saving(process: int, folder: Path, after: float, seconds: float) -> bool:
    """Kill a training so many seconds after it began to write a checkpoint; whether it lived until then."""
    begun, since = time.monotonic(), time.time()
    while time.monotonic() - begun < 120:
        ended, _ = os.waitpid(process, os.WNOHANG)
        if ended:
            return False
        ready = time.monotonic() - begun > after
        if ready and folder.is_dir() and writing(folder, since) is not None:
            time.sleep(seconds)
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return True
        time.sleep(0.0005)
    raise RuntimeError("nothing was saved within two minutes")


def saving_seconds(folder: Path, process: int, count: int = 10) -> float:
    """How long a checkpoint is under its other name, by the median of some."""
    taken: list[float] = []
    while len(taken) < count:
        if os.waitpid(process, os.WNOHANG)[0]:
            raise RuntimeError("the training ended early; see its log")
        if folder.is_dir() and writing(folder) is not None:
            begun = time.monotonic()
            while writing(folder) is not None:
                time.sleep(0.0005)
            taken.append(time.monotonic() - begun)
        time.sleep(0.0005)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--size", type=int, default=1000, help="of the square matrix that is trained")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from common import report

    torch.set_num_threads(1)  # and so no threads that a fork would lose
    draw = random.Random(arguments.seed)
    work = arguments.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    trial = start(recipe(work / "trial", arguments.size, OPEN_END), work / "trial.log")
    usual = saving_seconds(work / "trial" / "run" / "checkpoints", trial)
    os.kill(trial, signal.SIGKILL)
    os.waitpid(trial, 0)

    folder, log = work / "troubled", work / "troubled.log"
    checkpoints = folder / "run" / "checkpoints"
    left: Counter[str] = Counter()
    complete, begun, wrong, starts = 0, time.monotonic(), [], []
    for number in range(arguments.kills):
        size = log.stat().st_size if log.exists() else 0
        process = start(recipe(folder, arguments.size, OPEN_END), log)
        started = time.monotonic()
        if not kill_while_saving(process, checkpoints, draw.uniform(0, 2.5), draw.uniform(0, 1.2 * usual)):
            raise RuntimeError(f"start {number} did not go on; see {log}")
        starts.append(time.monotonic() - started)
        said = log.read_text(errors="replace")[size:]
        if complete and "Restored all states" not in said:
            wrong.append(f"start {number} began anew")
        left[state(checkpoints)] += 1
        now = complete_step(checkpoints)
        if now < complete:
            wrong.append(f"kill {number}: step {complete} was complete and is lost, {now} is left")
        complete = now
    end = complete + 3
    for name, place in (("troubled", folder), ("calm", work / "calm")):
        if os.waitpid(start(recipe(place, arguments.size, end), work / f"{name}.log"), 0)[1]:
            wrong.append(f"{name} did not end; see its log")
    if not wrong and not torch.equal(weights(folder / "out.nemo"), weights(work / "calm" / "out.nemo")):
        wrong.append("weights differ from the undisturbed run's")
    row = {
        "kills": arguments.kills,
        "saving_ms": usual * 1000,
        "MB": next(checkpoints.glob("*-last.ckpt")).stat().st_size / 1e6,
        "steps": end,
        "left_by_the_kills": "; ".join(f"{count} {words}" for words, count in left.most_common()),
        "start_to_kill_s": statistics.median(starts),
        "minutes": (time.monotonic() - begun) / 60,
        "result": "; ".join(wrong) or "weights identical",
    }
    report("kill_while_saving", [row], packages=("torch", "lightning", "nemo_toolkit"))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

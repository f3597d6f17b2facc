r"""bfloat16 beside fp32 on a CPU: the time of a pretraining step, and learning curves with several seeds.

    python benchmarks/cpu_precision.py step --units units.json --speech train.json --text text.json [--threads 1]
    python benchmarks/cpu_precision.py curves --work runs/precision --updates 300 --seeds 3 --units units.json \
        --speech train.json --text text.json --valid-speech valid.json --valid-text valid_text.json

Manifests have units. ``--config speechlm_p_small`` is the recipe; its options go behind ``--set``. A step is forward,
backward and AdamW on real batches, in turns. Of curves, losses on validation data are logged ten times; runs that are
done are not done again. Figures go to cpu_precision_step.csv and cpu_precision_curves.csv.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.common import alternate, report  # noqa: E402

PRECISIONS = ("32-true", "bf16-mixed")
BATCHES = 8
MONITORED = ("val_loss", "val_umlm_shared", "val_uctc")


def data_options(options: argparse.Namespace) -> list[str]:
    """Keys of the recipe that name the data."""
    named = {
        "model.units": options.units,
        "model.train_ds.speech.manifest_filepath": options.speech,
        "model.train_ds.text.manifest_filepath": options.text,
        "model.validation_ds.speech.manifest_filepath": options.valid_speech or options.speech,
        "model.validation_ds.text.manifest_filepath": options.valid_text or options.text,
    }
    return [f"{key}={value}" for key, value in named.items()] + options.more


def measure_steps(options: argparse.Namespace) -> None:
    """Time the same batches in each precision."""
    from nemo_speechlm.models import SpeechLMModel
    from nemo_speechlm.testing.trainer import tiny_trainer

    given = [*data_options(options), "output=none.nemo", "model.train_ds.num_workers=0"]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base=None):
        config = compose(options.config, given).model
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    torch.manual_seed(0)
    model = SpeechLMModel(config, trainer=tiny_trainer(1)).train()
    model.setup_training_data(config.train_ds)
    batches = [batch for batch, _ in zip(model.train_dataloader(), range(BATCHES), strict=False)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def steps(precision: str) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true"):
                    loss = model.compute_loss(batch)[0]
                loss.backward()
                optimizer.step()

        return run

    timings = alternate({precision: steps(precision) for precision in PRECISIONS}, options.rounds)
    base = timings[PRECISIONS[0]].median
    rows = [
        {
            "recipe": options.config, "precision": precision, "threads": options.threads,
            "seconds": timing.median / len(batches), "of_fp32": timing.median / base, "rounds": options.rounds,
        }
        for precision, timing in timings.items()
    ]  # fmt: skip
    report("cpu_precision_step", rows)


def curve(folder: Path) -> list[dict[str, Any]]:
    """Validation losses of a run, by update."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[int, dict[str, Any]] = {}
    for events in sorted(folder.rglob("events.out.tfevents.*")):
        log = EventAccumulator(str(events)).Reload()
        for name in MONITORED:
            for event in log.Scalars(name) if name in log.Tags()["scalars"] else ():
                found.setdefault(event.step, {"update": event.step})[name] = event.value
    return [found[step] for step in sorted(found)]


def measure_curves(options: argparse.Namespace) -> None:
    """Train with each seed in each precision."""
    rows = []
    for seed in range(options.seeds):
        for precision in PRECISIONS:
            name = f"{precision}_{seed}"
            output = options.work / f"{name}.nemo"
            if not output.exists():
                command = [
                    sys.executable, ROOT / "examples" / "speechlm_pretrain.py", "--config-name", options.config,
                    f"output={output}", f"name={name}", f"exp_manager.exp_dir={options.work / 'runs'}", f"seed={seed}",
                    f"trainer.max_steps={options.updates}", f"trainer.val_check_interval={options.updates // 10}",
                    f"trainer.precision={precision}", *data_options(options),
                ]  # fmt: skip
                subprocess.run(list(map(str, command)), check=True)
            run = {"recipe": options.config, "precision": precision, "seed": seed}
            rows += [run | point for point in curve(options.work / "runs" / name)]
    report("cpu_precision_curves", rows)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "curves"))
    parser.add_argument("--config", default="speechlm_p_small", help="recipe of SpeechLM")
    needed = {"units": True, "speech": True, "text": True, "valid-speech": False, "valid-text": False}
    for name, required in needed.items():
        parser.add_argument(f"--{name}", required=required)
    parser.add_argument("--work", type=Path, default=Path("runs/precision"), help="folder for curves' runs")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", dest="more", nargs="+", default=[], metavar="KEY=VALUE", help="options of the recipe")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    (measure_steps if options.what == "step" else measure_curves)(options)


if __name__ == "__main__":
    main()

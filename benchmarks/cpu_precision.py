r"""bfloat16 beside fp32 on a CPU: the time of a pretraining step, and learning curves with several seeds.

    python benchmarks/cpu_precision.py step --units units.json --speech train.json --text text.json [--threads 1]
    python benchmarks/cpu_precision.py curves --work runs/precision --updates 300 --seeds 3 --units units.json \
        --speech train.json --text text.json --valid-speech valid.json --valid-text valid_text.json
    python benchmarks/cpu_precision.py curves --config ctc_small --work runs/precision --updates 300 --seeds 3 \
        --pretrained pretrained.nemo --speech train.json --valid-speech valid.json

Manifests have units in pretraining, transcripts in fine-tuning. ``--config`` is the recipe; its options go behind
``--set``. A step is forward, backward and AdamW on real batches, in turns. Of curves, losses and error rates on
validation data are logged ten times, and runs take turns; those that are done are not done again. Figures go to
cpu_precision_step.csv and cpu_precision_curves.csv.
"""

import argparse
import statistics
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
MONITORED = ("val_loss", "val_umlm_shared", "val_uctc", "val_cer", "val_wer")
SECONDS = "train_step_timing in s"


def data_options(options: argparse.Namespace) -> list[str]:
    """Keys of the recipe that name the data."""
    if options.config.startswith("ctc"):
        named = {
            "model.init_from_pretrained": options.pretrained,
            "model.reuse_ctc_head": "true",
            "model.train_ds.manifest_filepath": options.speech,
            "model.validation_ds.manifest_filepath": options.valid_speech or options.speech,
        }
    else:
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


def curve(folder: Path) -> tuple[list[dict[str, Any]], float]:
    """What was found on validation data, by update; and the seconds of an update, in the middle."""
    from nemo_speechlm.evaluation.plots import read_scalars

    scalars = read_scalars(folder)
    found: dict[int, dict[str, Any]] = {}
    for name in MONITORED:
        for step, value in zip(*scalars.get(name, ((), ())), strict=True):
            point = found.setdefault(int(step), {"update": int(step), **dict.fromkeys(MONITORED, "")})
            point[name] = float(value)
    return [found[step] for step in sorted(found)], float(statistics.median(scalars[SECONDS][1]))


def measure_curves(options: argparse.Namespace) -> None:
    """Train with each seed in each precision."""
    script = "speechlm_finetune_ctc.py" if options.config.startswith("ctc") else "speechlm_pretrain.py"
    rows = []
    ends: dict[str, list[dict[str, Any]]] = {precision: [] for precision in PRECISIONS}
    for seed in range(options.seeds):
        for precision in PRECISIONS:
            name = f"{options.config}_{precision}_{seed}"
            output = options.work / f"{name}.nemo"
            if not output.exists():
                command = [
                    sys.executable, ROOT / "examples" / script, "--config-name", options.config,
                    f"output={output}", f"name={name}", f"exp_manager.exp_dir={options.work / 'runs'}", f"seed={seed}",
                    f"trainer.max_steps={options.updates}", f"trainer.val_check_interval={options.updates // 10}",
                    f"trainer.precision={precision}", *data_options(options),
                ]  # fmt: skip
                subprocess.run(list(map(str, command)), check=True)
            points, seconds = curve(options.work / "runs" / name)
            run = {"recipe": options.config, "precision": precision, "seed": seed, "seconds_an_update": seconds}
            rows += [run | point for point in points]
            ends[precision].append(run | points[-1])
    report("cpu_precision_curves", rows)
    for name in ("seconds_an_update", *MONITORED):
        for precision, runs in ends.items():
            values = [run[name] for run in runs if run[name] != ""]
            if values:
                print(
                    f"{name} {precision}: {min(values):.4g} to {max(values):.4g}, mean {statistics.mean(values):.4g}"
                )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "curves"))
    parser.add_argument("--config", default="speechlm_p_small", help="recipe of SpeechLM, or of fine-tuning with CTC")
    parser.add_argument("--speech", required=True)
    for name in ("units", "text", "valid-speech", "valid-text", "pretrained"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--work", type=Path, default=Path("runs/precision"), help="folder for curves' runs")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", dest="more", nargs="+", default=[], metavar="KEY=VALUE", help="options of the recipe")
    options = parser.parse_args()
    missing = ("pretrained",) if options.config.startswith("ctc") else ("units", "text")
    if absent := [f"--{name}" for name in missing if getattr(options, name) is None]:
        parser.error(f"{options.config} needs {', '.join(absent)}")
    if options.what == "step" and options.config.startswith("ctc"):
        parser.error("the step is of pretraining; curves tell the time of an update of fine-tuning")
    torch.set_num_threads(options.threads)
    (measure_steps if options.what == "step" else measure_curves)(options)


if __name__ == "__main__":
    main()

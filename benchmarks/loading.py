"""Loading of speech with units, against bare decoding of the same files, and how much of a batch is padding.

    python benchmarks/loading.py $DATA/train.json [more.json ...] [--rounds 5]
        [--text $DATA/novels.txt.gz]

The loader of pretraining (audio, units expanded to frames, batches by length as in speechlm_p_base) runs in this
process, as in one worker; the same files are decoded whole by soundfile and nothing else, in turns. Each round passes
over about the same amount of audio. Units are drawn: runs of 7 frames on the average. Padding is counted in a pass of
the training loader, crops included, for text as well where a text is given.

No batch depends on the number of ranks, so somebody has to go through the lines of all ranks' batches. What that costs
is told in processor seconds for a step of one rank: ``--ranks`` says of how many. From 8 ranks on, the workers of a
machine share this work by plans of batches, and there are two figures more: a step with plans, and the planning of a
step's batches, which all workers of a machine do once together.
"""

import argparse
import gzip
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.common import report
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader
from nemo_speechlm.data.pretraining.streams import SpeechStream, UnitTextStream
from nemo_speechlm.units.inventory import UnitInventory

RATE = 16000
LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
INVENTORY = UnitInventory("phoneme", "en", 100, ("SIL", *(f"U{i}" for i in range(363))), "SIL")
RECIPE = OmegaConf.load(Path(__file__).parent.parent / "conf" / "pretrain.yaml").model.train_ds
CROPPED, TEXT = (
    {key: RECIPE[part][key] for key in RECIPE[part] if key != "manifest_filepath"} for part in ("speech", "text")
)
SPEECH = {k: v for k, v in CROPPED.items() if k not in ("min_duration", "max_duration", "truncate_duration")}


def runs(frames: int, rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """Units that last so many frames together."""
    cuts = np.flatnonzero(rng.random(frames - 1) < 1 / 7) + 1
    durations = np.diff([0, *cuts, frames])
    symbols = [INVENTORY.symbols[i] for i in rng.integers(1, len(INVENTORY), len(durations))]
    return symbols, durations.tolist()


def speech_manifest(manifests: list[str], folder: Path) -> tuple[Path, list[tuple[str, float]]]:
    """A manifest with units, and its files with their seconds."""
    rng, records, files = np.random.default_rng(0), [], []
    for manifest in manifests:
        for _, record in read_manifest(manifest):
            path = str((Path(manifest).parent / record["audio_filepath"]).resolve())
            units, durations = runs(round(record["duration"] * INVENTORY.frame_rate), rng)
            own = {"audio_filepath": path, "duration": record["duration"], "units": units, "unit_durations": durations}
            records.append(own)
            files.append((path, record["duration"]))
    write_manifest(folder / "speech.json", records)
    return folder / "speech.json", files


def text_manifest(text: str, folder: Path, lines: int = 20000) -> Path:
    """A manifest of the first sentences, a unit drawn for each character."""
    rng = np.random.default_rng(0)
    with gzip.open(text, "rt") as source, (folder / "text.json").open("w") as out:
        for line, _ in zip(source, range(lines), strict=False):
            sentence = "".join(c for c in line.strip().lower() if c in LABELS)
            if sentence:
                units = [INVENTORY.symbols[i] for i in rng.integers(1, len(INVENTORY), len(sentence))]
                durations = rng.integers(3, 9, len(units)).tolist()
                record = {"text": sentence, "units": units, "unit_durations": durations}
                out.write(json.dumps(record) + "\n")
    return folder / "text.json"


STREAMS = [SpeechStream(INVENTORY), UnitTextStream(INVENTORY, LABELS, 100)]


def loader(config: dict[str, Any]) -> Iterator[Any]:
    return iter(build_pretrain_dataloader({**config, "num_workers": 0}, STREAMS))


def decode(files: list[tuple[str, float]], position: int, seconds: float) -> tuple[float, int]:
    """Decode files from a position on until so many seconds of audio are there; returns them and the next position."""
    passed = 0.0
    while passed < seconds:
        samples, rate = soundfile.read(files[position % len(files)][0], dtype="float32")
        passed += len(samples) / rate
        position += 1
    return passed, position


def speeds(manifest: Path, files: list[tuple[str, float]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of audio per second, round by round."""
    order = np.random.default_rng(1).permutation(len(files))
    files = [files[i] for i in order]
    batches = loader({"speech": {"manifest_filepath": str(manifest), **SPEECH}})
    next(batches)  # it fills its buffer with lines before
    position, rates = 0, {"loader": [], "soundfile": []}
    for _ in range(rounds):
        start = time.perf_counter()
        passed, position = decode(files, position, seconds)
        rates["soundfile"].append(passed / (time.perf_counter() - start))
        start, passed = time.perf_counter(), 0.0
        while passed < seconds:
            passed += float(next(batches).speech.audio_lengths.sum()) / RATE
        rates["loader"].append(passed / (time.perf_counter() - start))
    return rates


def padding(config: dict[str, Any], steps: int) -> dict[str, float]:
    """Share of padded places in the batches of so many steps."""
    full: dict[str, int] = {}
    used: dict[str, int] = {}
    batches = loader(config)
    for _ in range(steps):
        batch = next(batches)
        for name, part in (("speech", batch.speech), ("text", batch.text)):
            if part is not None:
                values, lengths = part[0], part[1]
                full[name] = full.get(name, 0) + values.numel()
                used[name] = used.get(name, 0) + int(lengths.sum())
    return {name: 1 - used[name] / full[name] for name in full}


def cost_of_a_step(config: dict[str, Any], ranks: int, steps: int) -> dict[str, float]:
    """Processor seconds that one rank of so many takes for the data of a step: without plans; and with them."""
    unplanned, made = (build_pretrain_dataloader({**config, "num_workers": 0}, STREAMS, 0, ranks) for _ in range(2))
    for sequence in unplanned.steps.sequences.values():
        sequence.decided_by = None
    found = {f"data of a step for one of {ranks} ranks": seconds_a_step(unplanned, steps)}
    if any(sequence.decided_by is None for sequence in made.steps.sequences.values()):
        return found
    planning, tempfile.tempdir = 0.0, tempfile.mkdtemp()  # without plans of another number of ranks
    for sequence in made.steps.sequences.values():
        next(sequence.batches())
        start = time.process_time()
        assert sequence._plans is not None
        plan = sequence._plans.of(0)
        assert plan is not None
        assert plan.batches is not None
        planning += (time.process_time() - start) * ranks / len(plan.batches)
        sequence.plan_ahead = lambda: None  # type: ignore[method-assign]
    found[f"the same with plans, one of {ranks} ranks"] = seconds_a_step(made, steps)
    found[f"planning of a step of {ranks} ranks"] = planning
    return found


def seconds_a_step(made: Any, steps: int) -> float:
    """Processor seconds of a step, of so many behind the first one."""
    batches = iter(made)
    next(batches)  # it fills its buffer with lines before
    start = time.process_time()
    for _ in range(steps):
        next(batches)
    return (time.process_time() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+")
    parser.add_argument("--text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1000.0, help="of audio in a round")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 32], help="of a training")
    parser.add_argument("--only-ranks", action="store_true", help="the cost of a step alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    manifest, files = speech_manifest(options.manifests, folder)
    rates = {} if options.only_ranks else speeds(manifest, files, options.rounds, options.seconds)
    bare = statistics.median(rates["soundfile"]) if rates else float("nan")
    rows = [
        {
            "what": f"{name}, whole files",
            "hours_per_hour": statistics.median(values),
            "fastest": max(values),
            "of_soundfile": statistics.median(values) / bare,
            "padding": "",
            "processor_seconds": "",
            "rounds": len(values),
        }
        for name, values in rates.items()
    ]
    config: dict[str, Any] = {"speech": {"manifest_filepath": str(manifest), **CROPPED}}
    if options.text:
        config["text"] = {"manifest_filepath": str(text_manifest(options.text, folder)), **TEXT}
    steps = max(20, int(sum(seconds for _, seconds in files) / SPEECH["batch_duration"]))
    blank = {"hours_per_hour": "", "fastest": "", "of_soundfile": "", "padding": "", "processor_seconds": ""}
    for name, share in ({} if options.only_ranks else padding(config, steps)).items():
        rows.append({"what": f"padding of {name}, {steps} batches", **blank, "padding": share, "rounds": 1})
    for ranks in options.ranks:
        rounds = max(2, 32 // ranks)
        for what, seconds in cost_of_a_step(config, ranks, rounds).items():
            rows.append({"what": what, **blank, "processor_seconds": seconds, "rounds": rounds})
    report("loading", rows, packages=("torch", "soundfile", "lhotse", "nemo_toolkit"))


if __name__ == "__main__":
    main()

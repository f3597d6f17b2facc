"""A pretraining step of Base size in fp32, forward and backward: ours on speech and text, HubertModel's on speech.

    python benchmarks/pretrain_step.py [--threads 2] [--rounds 3] [--profile]
    python benchmarks/pretrain_step.py --model slam_100m [--seconds 10] [--threads 2] [--rounds 3]

Ours computes all of SpeechLM's losses on 4 x 10 s of speech and 4 x 500 units of text, layerdrop 0. transformers'
HubertModel runs forward and backward on the same 4 x 10 s, without any loss but a sum of squares. They take turns in
one process; peak memory is then measured in a process for each.

With ``--model`` it is an update of a recipe of SLAM or MAESTRO, AdamW and all: 2 x 10 s of speech, two pairs of 10 s,
and four sentences: 100 tokens for SLAM, for MAESTRO as long as the speech. ``--seconds`` shortens both. There is no
peer: nobody else's SLAM or MAESTRO is open.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.base import batch, our_model, peer_model, step_operations
from benchmarks.common import alternate, measure_ceiling, peak_memory, report
from benchmarks.multitask_step import counted_operations, multitask_step

ROWS, SECONDS, SENTENCES, UNITS = 4, 10, 4, 500


def our_step() -> Callable[[], None]:
    model = our_model().train()
    data = batch(ROWS, SECONDS, SENTENCES, UNITS)

    def step() -> None:
        model.zero_grad()
        model.compute_loss(data)[0].backward()

    return step


def peer_step() -> Callable[[], None]:
    model = peer_model().train()
    audio = batch(ROWS, SECONDS, 0).speech.audio

    def step() -> None:
        model.zero_grad()
        model(audio).last_hidden_state.square().mean().backward()

    return step


STEPS = {"ours": our_step, "HubertModel": peer_step}


def make_step(name: str, seconds: int) -> Callable[[], None]:
    """A step of one of ``STEPS``, or of the SLAM or MAESTRO recipe of that name, whose utterances last so long."""
    return STEPS[name]() if name in STEPS else multitask_step(name, seconds)


def memory_of(name: str, threads: int, seconds: int) -> float:
    """GiB that a process of its own takes for two steps, at most."""
    run = [sys.executable, __file__, "--threads", str(threads), "--memory-of", name]
    run += ["--seconds", str(seconds)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--model", help="a recipe of SLAM or MAESTRO: slam_small, slam_100m, slam_600m, maestro_100m, ..."
    )
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each utterance of such a recipe's step")
    parser.add_argument("--profile", action="store_true", help="print where our time goes, and nothing else")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        step = make_step(options.memory_of, options.seconds)
        step(), step()
        print(peak_memory())
        return
    ours = options.model or "ours"
    names = [ours] if options.model or options.profile else list(STEPS)
    peaks = {} if options.profile else {name: memory_of(name, options.threads, options.seconds) for name in names}
    steps = {name: make_step(name, options.seconds) for name in names}
    if options.profile:
        steps[ours]()
        with torch.profiler.profile() as profile:
            steps[ours]()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=30, max_name_column_width=50))
        return
    ceiling = measure_ceiling()
    timings = alternate(steps, options.rounds)
    samples = SECONDS * 16000
    operations = {
        "ours": step_operations(ROWS, samples, SENTENCES, UNITS),
        "HubertModel": step_operations(ROWS, samples, relative=False),
    }
    if options.model:
        operations = {ours: counted_operations(steps[ours])}
    rows = [
        {
            "model": name,
            **timing.row(),
            "of_peer": timing.median / timings["HubertModel"].median if "HubertModel" in timings else float("nan"),
            "peak_GiB": peaks[name],
            **ceiling.row(operations[name], timing.median),
        }
        for name, timing in timings.items()
    ]
    report("pretrain_step", rows)


if __name__ == "__main__":
    main()

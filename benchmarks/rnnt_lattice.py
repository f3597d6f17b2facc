"""The RNN-T loss with its gradient, ours beside NeMo's two on a CPU, and the best path.

    python benchmarks/rnnt_lattice.py [--threads 1] [--rounds 3] [--slow-rounds 1] [--without "nemo pytorch"]

8 utterances of 250 frames and 60 targets, 1,024 symbols and blank. Each way starts from the joint network's logits
and ends with their gradient. NeMo's are slow, so they take fewer turns; the one in plain PyTorch takes many minutes.
``peak_mib`` is what a process of its own needs beyond the logits and their gradient. Rows go to
benchmarks/rnnt_lattice.csv.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.common import Timing, report
from nemo_speechlm.kernels.lattice import best_path, lattice_nll
from nemo_speechlm.losses.transducer import lattice_log_probs

ROWS, FRAMES, TARGETS, SYMBOLS = 8, 250, 60, 1024
WAYS = ("ours", "nemo numba", "nemo pytorch", "best path")


def work(way: str) -> Callable[[], object]:
    """What is timed."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, FRAMES, TARGETS + 1, SYMBOLS + 1, generator=generator, requires_grad=True)
    tokens = torch.randint(0, SYMBOLS, (ROWS, TARGETS), generator=generator)
    frames, targets = torch.full((ROWS,), FRAMES), torch.full((ROWS,), TARGETS)
    if way == "best path":
        with torch.no_grad():
            blank, emit = lattice_log_probs(logits, tokens)
        return lambda: best_path(blank, emit, frames, targets)

    def ours() -> torch.Tensor:
        return lattice_nll(*lattice_log_probs(logits, tokens), frames, targets)

    loss: Callable[[], torch.Tensor] = ours
    if way != "ours":
        from nemo.collections.asr.losses.rnnt import RNNTLoss

        name = {"nemo numba": "warprnnt_numba", "nemo pytorch": "pytorch"}[way]
        theirs = RNNTLoss(num_classes=SYMBOLS, reduction=None, loss_name=name)

        def loss() -> torch.Tensor:
            return theirs(
                log_probs=logits.log_softmax(-1), targets=tokens, input_lengths=frames, target_lengths=targets
            )

    def step() -> float:
        logits.grad = None
        value = loss().sum()
        value.backward()
        return float(value)

    return step


def measure(way: str, threads: int, rounds: int) -> None:
    """Print the seconds of each round, the loss, and the memory beyond the inputs; in a process of its own."""
    torch.set_num_threads(threads)
    run = work(way)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value, seconds = run(), []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    gradient = 0 if way == "best path" else ROWS * FRAMES * (TARGETS + 1) * (SYMBOLS + 1) * 4 / 2**20
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 - gradient
    print("RESULT", value if isinstance(value, float) else 0.0, peak, *seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-rounds", type=int, default=1)
    parser.add_argument("--without", choices=WAYS[1:3], action="append", default=[], help="leave out one of NeMo's")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measure(options.way, options.threads, options.rounds)
        return
    torch.set_num_threads(options.threads)  # as rows say of the machine
    rows, values = [], {}
    ways = [way for way in WAYS if way not in options.without]
    for way in ways:
        rounds = options.slow_rounds if way.startswith("nemo") else options.rounds
        command = [sys.executable, __file__, "--way", way, "--threads", str(options.threads), "--rounds", str(rounds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
        value, peak, *seconds = map(float, line.split()[1:])
        values[way] = value
        rows.append({"way": way, **Timing(tuple(seconds)).row(), "peak_mib": peak})
        print(way, seconds, flush=True)
    if any(abs(values[way] - values["ours"]) > 1e-3 * values["ours"] for way in ways if way.startswith("nemo")):
        raise SystemExit(f"the losses differ: {values}")
    fastest = min(row["seconds"] for row in rows if row["way"].startswith("nemo"))
    losses = [way for way in ways if way != "best path"]  # which is not compared with a loss
    report(
        "rnnt_lattice",
        [{**row, "times_faster": fastest / row["seconds"] if row["way"] in losses else ""} for row in rows],
    )


if __name__ == "__main__":
    main()

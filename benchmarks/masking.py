"""Masking and swapping: drawing the spans, and putting them into the states, on a CPU (on a GPU: benchmarks/gpu.py).

    python benchmarks/masking.py [--threads 2] [--rounds 50]

Spans for 32 utterances of 750 frames are drawn by ours, by transformers' function for HuBERT, and by a plain program
with the steps of the released code: starts without replacement, a list of frames per row, and frames unmasked at
random until all rows have as many as the poorest. Then masks, swapped units and padding are put into states of
32 x 750 x 768, forward and backward; the bytes that this must move at least (states and gradients read and written
once) are compared with what a copy moves.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.common import Timing, alternate, measure_ceiling, report
from nemo_speechlm.kernels.mixing import mix_states
from nemo_speechlm.modules.masking import SpanMask

ROWS, FRAMES, WIDTH, UNITS = 32, 750, 768, 364
CALLS = 10
MASKING, SWAPPING = SpanMask(0.8, 10, 2), SpanMask(0.4, 5)


def released_spans(rng: np.random.Generator) -> np.ndarray:
    """The released code's way to a mask, in plain steps."""
    rows = []
    for _ in range(ROWS):
        count = max(2, int(0.8 * FRAMES / 10 + rng.random()))
        starts = rng.choice(FRAMES - 10, count, replace=False)
        rows.append(np.unique([start + offset for start in starts for offset in range(10)]))
    fewest = min(len(row) for row in rows)
    mask = np.zeros((ROWS, FRAMES), dtype=bool)
    for place, row in zip(mask, rows, strict=True):
        place[rng.choice(row, fewest, replace=False)] = True
    return mask


def drawing() -> dict[str, Callable[[], object]]:
    from transformers.models.hubert.modeling_hubert import _compute_mask_indices

    lengths, rng = torch.full((ROWS,), FRAMES), np.random.default_rng(0)
    return {
        "ours": lambda: MASKING.draw(lengths, FRAMES),
        "transformers": lambda: torch.from_numpy(_compute_mask_indices((ROWS, FRAMES), 0.8, 10, min_masks=2)),
        "released steps": lambda: torch.from_numpy(released_spans(rng)),
    }


def repeated(work: dict[str, Callable[[], object]]) -> dict[str, Callable[[], None]]:
    """The same ``CALLS`` times in a row, so that the clock's and the caches' part is small."""
    return {name: (lambda run=run: [run() for _ in range(CALLS)]) for name, run in work.items()}


def each(timing: Timing) -> Timing:
    """Seconds of one call."""
    return Timing(tuple(seconds / CALLS for seconds in timing.seconds))


def mixing() -> dict[str, Callable[[], object]]:
    lengths = torch.full((ROWS,), FRAMES)
    mask = MASKING.draw(lengths, FRAMES)
    swap = SWAPPING.draw(lengths, FRAMES) & ~mask
    padding = torch.zeros(ROWS, FRAMES, dtype=torch.bool)
    units = torch.randint(UNITS, (ROWS, FRAMES))
    states, vector, embedding, gradient = (
        torch.randn(*shape, requires_grad=True)
        for shape in ((ROWS, FRAMES, WIDTH), (WIDTH,), (UNITS, WIDTH), (ROWS, FRAMES, WIDTH))
    )
    gradient = gradient.detach()
    return {
        "forward": lambda: mix_states(
            states.detach(), mask, vector.detach(), swap, units, embedding.detach(), padding
        ),
        "forward and backward": lambda: torch.autograd.grad(
            mix_states(states, mask, vector, swap, units, embedding, padding), (states, vector, embedding), gradient
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ceiling = measure_ceiling()
    torch.manual_seed(0)
    drawn = {name: each(timing) for name, timing in alternate(repeated(drawing()), options.rounds).items()}
    mixed = alternate(mixing(), max(3, options.rounds // 3))
    state_bytes = 4.0 * ROWS * FRAMES * WIDTH
    rows = []
    for work, timings, bytes_moved in (
        ("spans", drawn, {}),
        ("mixing", mixed, {"forward": 2 * state_bytes, "forward and backward": 4 * state_bytes}),
    ):
        for name, timing in timings.items():
            moved = bytes_moved.get(name)
            rows.append(
                {
                    "work": f"{work} {ROWS} x {FRAMES}",
                    "how": name,
                    "ms": timing.median * 1e3,
                    "fastest_ms": min(timing.seconds) * 1e3,
                    "rounds": len(timing.seconds),
                    "times_as_fast_as_released_steps": drawn["released steps"].median / timing.median
                    if work == "spans"
                    else "",
                    "GB_per_s": "" if moved is None else moved / timing.median / 1e9,
                    "copy_GB_per_s": ceiling.bytes / 1e9,
                    "of_copy": "" if moved is None else moved / timing.median / ceiling.bytes,
                }
            )
    report("masking", rows)


if __name__ == "__main__":
    main()

"""Features of all layers, Base size, fp32: ours and transformers' HubertModel in turns.

python benchmarks/features.py [--threads 2] [--rounds 5]
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.base import feature_operations, our_model, peer_model
from benchmarks.common import alternate, measure_ceiling, report

CASES = ((1, 10), (8, 10))
"""Utterances and their seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours, peer = our_model().eval(), peer_model().eval()
    rows = []
    for utterances, seconds in CASES:
        samples = seconds * 16000
        audio, lengths = torch.randn(utterances, samples) * 0.1, torch.full((utterances,), samples)
        ceiling = measure_ceiling()
        with torch.no_grad():
            timings = alternate(
                {
                    "ours": lambda: ours.extract_features(audio, lengths),  # noqa: B023 - called at once
                    "HubertModel": lambda: peer(audio, output_hidden_states=True),  # noqa: B023
                },
                options.rounds,
            )
        for name, timing in timings.items():
            operations = feature_operations(utterances, samples, relative=name == "ours")
            rows.append(
                {
                    "case": f"{utterances} x {seconds} s",
                    "model": name,
                    **timing.row(),
                    "of_peer": timing.median / timings["HubertModel"].median,
                    **ceiling.row(operations, timing.median),
                }
            )
    report("features", rows)


if __name__ == "__main__":
    main()

r"""The shared space of a SLAM model, on transcribed speech of voices that it has not heard.

    python benchmarks/slam_shared_space.py slam.nemo test.json [--tune-on valid.json] [--limit 200] [--candidates 20] \
        [--seed 0]

What it prints also goes to benchmarks/slam_shared_space.csv. With --tune-on, texts are said to match above the score
that is best on those utterances, instead of 0.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from nemo_speechlm.evaluation.shared_space import MEASURES, SLAMSpace, best_threshold, measure, read_examples
from nemo_speechlm.models import SLAMModel
from nemo_speechlm.models.common.restore import restore_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("manifest")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune-on", help="manifest of utterances to choose the threshold of matching_accuracy on")
    parser.add_argument("--csv", default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    space = SLAMSpace(restore_file(SLAMModel, options.model))
    threshold = 0.0
    if options.tune_on:
        threshold = best_threshold(space, read_examples(options.tune_on, options.limit), options.seed)
        print(f"texts are said to match above a score of {threshold:.2f}")
    examples = read_examples(options.manifest, options.limit)
    found = measure(space, examples, options.candidates, options.seed, threshold)
    with open(options.csv, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("measure", "share", "of", "what"))
        for name, share in found.items():
            writer.writerow((name, f"{share.value:.3f}", share.of, MEASURES[name]))
            print(f"{name:26} {share.value:.3f} of {share.of}: {MEASURES[name]}")


if __name__ == "__main__":
    main()

"""How well a MAESTRO model matches text with speech that it has not heard.

    python examples/train_aligner.py manifest=train.json output=aligner.safetensors style=plain
    python examples/tokenize_speech.py manifest=test.json output=aligned.json units=units.json speech_tokenizer=gmm \
        model=aligner.safetensors
    python benchmarks/maestro_matching.py maestro.nemo aligned.json units.json [--before before.nemo] [--limit 200] \
        [--pictures folder]

``--before`` is a model that has learned RNN-T but not matching: the first stage alone. What it prints also goes to
benchmarks/maestro_matching.csv.
"""

import argparse
import csv
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from nemo_speechlm.evaluation.matching import Matcher, alignment_report, retrieval
from nemo_speechlm.evaluation.matching_plots import plot_durations, plot_lattice, plot_similarity
from nemo_speechlm.evaluation.shared_space import read_examples
from nemo_speechlm.models import MAESTROModel
from nemo_speechlm.models.common.restore import restore_file
from nemo_speechlm.units.inventory import UnitInventory


def nearest_text(name: str, options: argparse.Namespace) -> tuple[float, int]:
    """How often the right text is the nearest of those of about its length, and of how many utterances."""
    matcher = Matcher(restore_file(MAESTROModel, name).eval())
    examples = read_examples(options.manifest, options.limit)
    share = retrieval(matcher, examples, [matcher.model.phone_encoder(e.text) for e in examples], options.candidates)
    return share.value, share.of


def draw(matcher: Matcher, options: argparse.Namespace) -> None:
    """Draw an utterance's lattice and states, and the durations of all."""
    options.pictures.mkdir(parents=True, exist_ok=True)
    examples = read_examples(options.manifest, options.limit)
    matchers = [("after matching", matcher)]
    if options.before:
        matchers.insert(0, ("before matching", Matcher(restore_file(MAESTROModel, options.before).eval())))
    plot_lattice(matcher, examples[0], options.pictures / "lattice.png")
    plot_similarity(matchers, examples[0], options.pictures / "similarity.png")
    plot_durations(matcher, examples, options.pictures / "durations.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("manifest", help="speech with text, units and unit_durations")
    parser.add_argument("units", help="inventory of these units")
    parser.add_argument("--before")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--pictures", type=Path, help="folder to draw the lattice, states and durations in")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--csv", default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    torch.manual_seed(0)
    matcher = Matcher(restore_file(MAESTROModel, options.model).eval())
    report = alignment_report(matcher, options.manifest, UnitInventory.load(options.units), options.limit)
    accuracy = report.accuracy
    pearson = "Pearson: predicted durations, "
    alike = f"in {report.alike} of {report.utterances} utterances, which have the aligner's phones"
    rows = [
        ("boundaries", accuracy.boundaries, accuracy.true_boundaries, "within 60 ms of the aligner's, all phones"),
        ("matched_boundaries", accuracy.matched_boundaries, accuracy.neighbours, "of phones that both have"),
        ("mean_error", accuracy.mean_error, accuracy.neighbours, "of the latter, in seconds, late or early"),
        ("mean_delay", accuracy.mean_delay, accuracy.neighbours, "the same, below 0 where early"),
        ("durations", report.correlation, report.phones, f"{pearson}the aligner's; {alike}"),
        ("own_durations", report.own_correlation, report.phones, f"{pearson}its own alignments; in the same"),
        ("nearest_text", *nearest_text(options.model, options), f"right among {options.candidates} of nearest length"),
    ]
    if options.before:
        rows.append(("nearest_text_before", *nearest_text(options.before, options), "the same before matching"))
    if options.pictures:
        draw(matcher, options)
    with open(options.csv, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("measure", "value", "of", "what"))
        for name, value, of, what in rows:
            writer.writerow((name, f"{value:.3f}", of, what))
            print(f"{name:20} {value:.3f} of {of}: {what}")


if __name__ == "__main__":
    main()

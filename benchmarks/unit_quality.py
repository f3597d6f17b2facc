"""What hidden units say about phones: purities and PNMI of manifests of units, against phones of the same utterances.

    python benchmarks/unit_quality.py --units hidden_units.json --phones phones.json train valid

For each NAME, NAME.hidden.json (tokenize_speech.py speech_tokenizer=kmeans) is compared with NAME.phones.json
(tokenize_speech.py, aligned), frame by frame; stress and place in the word do not count.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.common import report
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.evaluation.unit_quality import compare_manifests
from nemo_speechlm.units.inventory import UnitInventory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="paths without .hidden.json and .phones.json")
    parser.add_argument("--units", type=Path, required=True, help="inventory of the hidden units")
    parser.add_argument("--phones", type=Path, required=True, help="inventory of the phones")
    options = parser.parse_args()
    units, phones = UnitInventory.load(options.units), UnitInventory.load(options.phones)
    rows = []
    for name in options.names:
        hidden = Path(f"{name}.hidden.json")
        quality, utterances = compare_manifests(hidden, units, f"{name}.phones.json", phones)
        runs = sum(len(record["unit_durations"]) for _, record in read_manifest(hidden, ["unit_durations"]))
        found = quality.to_dict()
        rows.append(
            {
                "manifest": Path(name).name,
                "utterances": utterances,
                "frame_rate": units.frame_rate,
                **found,
                "frames_of_a_run": found["frames"] / runs,
            }
        )
    report("unit_quality", rows, ("numpy", "torch"))


if __name__ == "__main__":
    main()

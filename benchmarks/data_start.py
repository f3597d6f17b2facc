"""How soon a loader of pretraining delivers its first batch, and how soon a resumed one its next, of many lines.

    python benchmarks/data_start.py --text $DATA/novels.txt.gz [--lines 20000000] [--work runs/data_start]

A text manifest of so many lines is written once: sentences with drawn units, whose durations are drawn as they are
read, the same 50,000 lines again and again. Each figure is taken in a process of its own: the index (where lines
begin) of a file that was never read, and of one whose index is kept; the first batch of one that was never read, and
the first batch behind a place near the end of a chapter in the middle of a pass, where the most lines have to be read
again.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.common import report
from benchmarks.loading import INVENTORY, LABELS, TEXT, text_manifest
from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.data.manifests.kept_index import index_path
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.pretraining.chapters import Chapters
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader
from nemo_speechlm.data.pretraining.streams import UnitTextStream
from nemo_speechlm.units.durations import paper_durations

MEASURED = ("index", "index that is kept", "first batch", "resume")
SENTENCES = 50_000
STREAMS = [UnitTextStream(INVENTORY.with_durations(paper_durations(INVENTORY)), LABELS, 100)]


def write(text: str, folder: Path, lines: int) -> Path:
    """The manifest of so many lines."""
    path = folder / f"text_{lines}.json"
    if not path.exists():
        records = [record for _, record in read_manifest(text_manifest(text, folder, SENTENCES))]
        some = [(json.dumps({k: record[k] for k in ("text", "units")}) + "\n").encode() for record in records]
        with path.with_suffix(".partial").open("wb") as out:
            for start in range(0, lines, len(some)):
                out.writelines(some[: lines - start])
        path.with_suffix(".partial").rename(path)
    return path


def measure(what: str, manifest: Path, lines: int) -> None:
    """Print seconds."""
    config = {"text": {"manifest_filepath": str(manifest), **TEXT}, "num_workers": 0}
    place = None
    if what == "resume":
        per_pass = Chapters([lines], (0,)).per_pass
        behind = batches_of_a_chapter(config, lines // per_pass) * 95 // 100
        place = {"step": per_pass // 2 * behind, "positions": {"text": (per_pass // 2, behind)}}
    if what in ("index", "first batch"):
        index_path(manifest.resolve()).unlink(missing_ok=True)
    start = time.perf_counter()
    if what.startswith("index"):
        assert len(IndexedManifest(manifest)) == lines
    else:
        loader = build_pretrain_dataloader(config, STREAMS)
        if place is not None:
            loader.load_state_dict(place)
        next(iter(loader))
    print(time.perf_counter() - start)


def batches_of_a_chapter(config: dict[str, Any], lines: int) -> int:
    """How many batches so many lines make, by what the loader makes of the first ones."""
    batches = iter(build_pretrain_dataloader(config, STREAMS))
    sentences = statistics.mean(len(next(batches).text.units) for _ in range(20))
    return int(lines / sentences)


def main() -> None:
    """Write, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="sentences, a line each, gzipped")
    parser.add_argument("--lines", type=int, default=20_000_000)
    parser.add_argument("--work", type=Path, default=Path("runs/data_start"))
    parser.add_argument("--measure", choices=MEASURED, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    manifest = write(options.text, options.work, options.lines)
    if options.measure:
        measure(options.measure, manifest, options.lines)
        return
    rows, size = [], round(manifest.stat().st_size / 1e9, 2)
    for what in MEASURED:
        command = [sys.executable, __file__, "--measure", what, *sys.argv[1:]]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = float(done.stdout.split()[-1])
        rows.append({"what": what, "lines": options.lines, "file_GB": size, "seconds": seconds})
    report("data_start", rows, ("torch", "lhotse", "nemo_toolkit"))


if __name__ == "__main__":
    main()

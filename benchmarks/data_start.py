"""How soon a loader of pretraining delivers its first batch, and how soon a resumed one its next, of many lines.

    python benchmarks/data_start.py --text $DATA/novels.txt.gz [--lines 20000000] [--work runs/data_start]

A text manifest of so many lines is written once: sentences with drawn units, the same 50,000 again and again. Each
figure is taken in a process of its own: the index (where lines begin), the first batch, and the first batch behind a
place near the end of a chapter in the middle of a pass, where the most lines have to be read again.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.common import peak_memory, report
from benchmarks.loading import STREAMS, TEXT, text_manifest
from nemo_speechlm.data.manifests.indexed import IndexedManifest
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.pretraining.chapters import Chapters
from nemo_speechlm.data.pretraining.loader import build_pretrain_dataloader

SENTENCES = 50_000


def write(text: str, folder: Path, lines: int) -> Path:
    """The manifest of so many lines."""
    path = folder / f"text_{lines}.json"
    if not path.exists():
        some = text_manifest(text, folder, SENTENCES).read_bytes().splitlines(keepends=True)
        with path.with_suffix(".partial").open("wb") as out:
            for start in range(0, lines, len(some)):
                out.writelines(some[: lines - start])
        path.with_suffix(".partial").rename(path)
    return path


def measure(what: str, manifest: Path, lines: int) -> None:
    """Print seconds and the process's peak memory in GB."""
    config = {"text": {"manifest_filepath": str(manifest), **TEXT}, "num_workers": 0}
    per_pass = Chapters([lines], (0,)).per_pass
    behind = batches_of_a_chapter(manifest, lines // per_pass) * 95 // 100
    before, start = peak_memory(), time.perf_counter()
    if what == "index":
        assert len(IndexedManifest(manifest)) == lines
    else:
        loader = build_pretrain_dataloader(config, STREAMS)
        if what == "resume":
            place = {"text": (per_pass // 2, behind)}
            loader.load_state_dict({"step": per_pass // 2 * behind, "positions": place})
        next(iter(loader))
    print(time.perf_counter() - start, peak_memory() - before)


def batches_of_a_chapter(manifest: Path, lines: int) -> int:
    """How many batches so many lines make, by the frames of their units."""
    frames = [
        sum(record["unit_durations"]) for _, (_, record) in zip(range(2000), read_manifest(manifest), strict=False)
    ]
    return int(lines * statistics.mean(frames) / TEXT["batch_tokens"])


def main() -> None:
    """Write, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="sentences, a line each, gzipped")
    parser.add_argument("--lines", type=int, default=20_000_000)
    parser.add_argument("--work", type=Path, default=Path("runs/data_start"))
    parser.add_argument("--measure", choices=("index", "first batch", "resume"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    manifest = write(options.text, options.work, options.lines)
    if options.measure:
        measure(options.measure, manifest, options.lines)
        return
    rows = []
    for what in ("index", "first batch", "resume"):
        command = [sys.executable, __file__, "--measure", what, *sys.argv[1:]]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, memory = map(float, done.stdout.split()[-2:])
        rows.append({"what": what, "lines": options.lines, "seconds": seconds, "GB": memory})
    report("data_start", rows, ("torch", "lhotse", "nemo_toolkit"))


if __name__ == "__main__":
    main()

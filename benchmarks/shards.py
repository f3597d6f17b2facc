"""Shards: how fast they are made, beside copying and encoding alone, and how fast they are read, beside plain files.

    python benchmarks/shards.py $DATA/train.json [more.json ...] [--rounds 5] [--hours 1] [--formats flac opus keep]

Making: make_shards in this process (decoded, checked, encoded, written, indexed), against a loop that reads each file,
copies its bytes, decodes and encodes it with soundfile, and does nothing else. ``opus`` and ``keep`` likewise; what
``keep`` is compared with decodes as well, for it checks what it copies. Reading: all utterances in a random order by
the readers of training, from the shards, and from a folder with the same files. Rounds take turns; the page cache is
warm in all.
"""

import argparse
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.common import alternate, report
from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.data.manifests.lines import audio_path, read_manifest, write_manifest
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.speech_reader import SpeechReader
from nemo_speechlm.data.pretraining.utterance_audio import audio_of
from nemo_speechlm.data.sharding.encoding import AudioEncoding
from nemo_speechlm.data.sharding.job import Division, make_shards

RATE = 16000
FORMATS = ("flac", "opus", "keep")


def chosen(manifests: list[str], hours: float, folder: Path) -> tuple[Path, list[Path], float]:
    """A manifest of the first hours with absolute names, its files, and their seconds."""
    records: list[dict[str, Any]] = []
    seconds = 0.0
    for manifest in manifests:
        for number, record in read_manifest(manifest, ["audio_filepath"]):
            if seconds >= hours * 3600:
                break
            seconds += len(read_utterance(record, manifest, number, RATE)) / RATE
            records.append({**record, "audio_filepath": str(audio_path(record, manifest).resolve())})
    write_manifest(folder / "plain.json", records)
    return folder / "plain.json", [Path(record["audio_filepath"]) for record in records], seconds


def bare(files: list[Path], target: Path, format: str) -> None:
    """Copy each file, decode it, and encode it."""
    with open(target, "wb") as out:
        for path in files:
            content = path.read_bytes()
            out.write(content)
            samples, rate = soundfile.read(BytesIO(content), dtype="int16")
            if format != "keep":
                file = BytesIO()
                kind = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}[format]
                soundfile.write(file, samples, rate, format=kind[0], subtype=kind[1])
                out.write(file.getvalue())


def making(manifest: Path, files: list[Path], folder: Path, format: str, rounds: int) -> dict[str, Any]:
    """Seconds of making shards, and of copying and encoding alone."""
    size = max(1, len(files) // 4)

    def ours() -> None:
        shutil.rmtree(folder / format, ignore_errors=True)
        make_shards(str(manifest), folder / format, encoding=AudioEncoding(format), division=Division(shard_size=size))

    times = alternate({"ours": ours, "bare": lambda: bare(files, folder / "bare", format)}, rounds)
    return {
        "case": f"make {format}",
        "seconds": times["ours"].median,
        "other": "copy and encode" if format != "keep" else "copy and decode",
        "other_seconds": times["bare"].median,
        "of_other": times["bare"].median / times["ours"].median,
    }


def unpacked(shards: Path, folder: Path) -> Path:
    """A manifest of the files in shards, which are unpacked."""
    records = []
    for manifest in sorted(shards.glob("manifest_*.json")):
        number = manifest.stem.removeprefix("manifest_")
        with tarfile.open(shards / f"audio_{number}.tar") as tar:
            tar.extractall(folder / number, filter="data")
        for _, record in read_manifest(manifest, ["audio_filepath"]):
            records.append({**record, "audio_filepath": f"{number}/{record['audio_filepath']}"})
    write_manifest(folder / "plain.json", records)
    return folder / "plain.json"


def reading(plain: Path, shards: Path, count: int, rounds: int) -> dict[str, Any]:
    """Seconds of reading all utterances from plain files, and from shards."""

    def reader(manifests: list[str]) -> Callable[[], None]:
        cuts = SpeechReader(manifests, order=Order(seed=1, finite=True), sample_rate=RATE)

        def read() -> None:
            found = sum(1 for cut in cuts if len(audio_of(cut, RATE)))
            assert found == count

        return read

    names = [str(path) for path in sorted(shards.glob("manifest_*.json"))]
    times = alternate({"shards": reader(names), "files": reader([str(plain)])}, rounds)
    return {
        "case": f"read {shards.name}",
        "seconds": times["shards"].median,
        "other": "plain files",
        "other_seconds": times["files"].median,
        "of_other": times["files"].median / times["shards"].median,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", help="speech")
    parser.add_argument("--hours", type=float, default=1.0, help="of them are used")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="opus is slow to make")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, files, seconds = chosen(arguments.manifests, arguments.hours, folder)
        facts = {"hours": round(seconds / 3600, 3), "utterances": len(files)}
        suffixes = sorted({path.suffix for path in files})
        rows = [making(manifest, files, folder, form, arguments.rounds) for form in arguments.formats]
        for form in arguments.formats:
            plain = unpacked(folder / form, folder / f"{form}_files")
            rows.append(reading(plain, folder / form, len(files), arguments.rounds))
        np.testing.assert_array_less(0, [row["seconds"] for row in rows])
        report("shards", [{**row, "source": ",".join(suffixes), **facts} for row in rows], packages=("soundfile",))


if __name__ == "__main__":
    main()

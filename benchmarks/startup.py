"""How long commands take to answer, each in a process of its own: help, wrong options, and the smallest real work.

    python benchmarks/startup.py            # rounds=5 in turns; appends to startup.csv
    python benchmarks/startup.py --rounds 1 --only transcribe

CPU time tells what was done, seconds also how busy the disk and other work were. ``modules`` counts what was imported;
``heavy`` names the large ones.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import soundfile
import torch
from omegaconf import OmegaConf

from nemo_speechlm.models import SpeechLMCTCModel
from nemo_speechlm.testing import tiny_architecture, tiny_labels

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HEAVY = ("torch", "nemo", "lightning", "transformers", "lhotse", "scipy", "matplotlib", "sklearn", "tensorboard")

PROGRAM = """
import json, os, runpy, sys
sys.argv = sys.argv[2:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    status = end.code or 0
else:
    status = 0
with os.fdopen(3, "w") as file:
    json.dump([status, sorted(sys.modules), sum(os.times()[:4])], file)
"""


class Case(NamedTuple):
    """What is measured.

    Attributes:
        name: in the table.
        command: of the examples, or a program's whole path without ``.py``.
        arguments: of it.
        status: that it must end with.
    """

    name: str
    command: str
    arguments: list[str]
    status: int = 0


def cases(folder: Path) -> list[Case]:
    """The cases, whose files are made in a folder."""
    torch.manual_seed(0)
    model = folder / "ctc.nemo"
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    SpeechLMCTCModel(OmegaConf.create({**tiny_architecture(), "labels": tiny_labels(), "decoder": head})).save_to(
        model
    )
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 3 * 16000)
    soundfile.write(folder / "a.wav", noise, 16000)
    (folder / "text.txt").write_text("one two three four\nfive six seven eight\n" * 100)
    audio, known = f"input={folder / 'a.wav'}", f"model={model}"
    clean = folder / "clean.json"
    (folder / "nothing.py").write_text("")
    (folder / "imports.py").write_text("import nemo_speechlm\n")
    return [
        Case("nothing", str(folder / "nothing"), []),
        Case("import nemo_speechlm", str(folder / "imports"), []),
        Case("help of a data tool", "tokenize_text", ["--help"]),
        Case("help of a training", "speechlm_pretrain", ["--help"]),
        Case("help of inference", "transcribe", ["--help"]),
        Case("an option that is not there", "transcribe", [known, audio, "formt=text"], 1),
        Case("a value that is missing", "transcribe", [known], 1),
        Case("a model that is not there", "transcribe", [f"model={folder / 'no.nemo'}", audio], 1),
        Case("a recording that is not there", "transcribe", [known, "input=no.wav"], 1),
        Case("a recipe without its data", "speechlm_finetune_ctc", [
            f"output={folder / 'new.nemo'}", "model.train_ds.manifest_filepath=no.json",
            "model.validation_ds.manifest_filepath=no.json",
        ], 1),
        Case("prepare_text, 200 lines", "prepare_text", [
            f"source={folder / 'text.txt'}", f"output={clean}", "workers=1", "overwrite=true",
        ]),
        Case("make_lexicon, 8 words", "make_lexicon", [
            f"source={clean}", f"output={folder / 'words.tsv'}", "language=en", "phonemizer=english", "overwrite=true",
            f"units={folder / 'units.json'}",
        ]),
        Case("prepare_data, 1 file", "prepare_data", [
            "corpus=folder", f"source={folder}", f"output={folder / 'speech.json'}", "workers=1", "overwrite=true",
        ]),
        Case("transcribe, 3 s", "transcribe", [known, audio, "device=cpu"]),
    ]  # fmt: skip


def run(case: Case) -> tuple[float, float, list[str]]:
    """Seconds, seconds of CPU, and the modules that were imported."""
    reader, writer = os.pipe()
    command = [sys.executable, "-c", PROGRAM, "-", str(EXAMPLES / f"{case.command}.py"), *case.arguments]
    start = time.perf_counter()
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" 3>&{writer} {writer}>&-', "sh", *command],
        pass_fds=[writer], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    _, error = process.communicate()
    seconds = time.perf_counter() - start
    if not said:
        sys.exit(f"{case.name}: {error}")
    status, modules, cpu = json.loads(said)
    if status != case.status:
        sys.exit(f"{case.name}: ended with status {status}, expected {case.status}: {error}")
    return seconds, cpu, modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of all cases in turns (default: 5)")
    parser.add_argument("--only", default="", help="cases whose command has this in its name")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = [case for case in cases(Path(folder)) if arguments.only in case.command]
        for case in chosen:
            run(case)  # once before, so the files of libraries are in memory and those of cases are there
        found: dict[str, list[tuple[float, float, list[str]]]] = {case.name: [] for case in chosen}
        for _ in range(arguments.rounds):
            for case in chosen:
                found[case.name].append(run(case))
    rows: list[dict[str, Any]] = []
    for case in chosen:
        seconds, cpu, modules = zip(*found[case.name], strict=True)
        tops = {name.partition(".")[0] for name in modules[0]}
        rows.append({
            "case": case.name, **common.Timing(seconds).row(),
            "cpu_seconds": common.Timing(cpu).median, "modules": len(modules[0]),
            "of_ours": sum(name.partition(".")[0] == "nemo_speechlm" for name in modules[0]),
            "heavy": " ".join(name for name in HEAVY if name in tops) or "none",
        })  # fmt: skip
    print(common.report("startup", rows, ("torch", "nemo_toolkit", "lightning", "hydra-core")))


if __name__ == "__main__":
    main()

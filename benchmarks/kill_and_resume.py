r"""Kill each tool with SIGKILL at random points, run it again until it ends, and compare with an undisturbed run.

    python benchmarks/kill_and_resume.py --work runs/killed --kills 10

For each tool: one undisturbed run gives the expected files and the time that it takes. Then it is started in an empty
folder, killed after a time drawn between nothing and that (every second time its workers are killed with it), and
started again, until it ends by itself; and so on with empty folders until it was killed often enough. Every file in
the folder must then be there, with the same bytes, and no other.

    python benchmarks/kill_and_resume.py --work runs/killed --kills 2 --trainings

does the same with trainings (killed_training.py), whose weights must be those of an undisturbed run, bit for bit.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.killing import Outcome

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@dataclass(frozen=True)
class Tool:
    """A command to kill.

    Args:
        name: of the row.
        command: script and options; paths are relative to the folder that it is run in.
        given: files that are copied there first, by name.
    """

    name: str
    command: Sequence[str]
    given: Mapping[str, Path]


def start(tool: Tool, folder: Path) -> subprocess.Popen:
    """Start the tool in a session of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    log = open(folder.with_suffix(".log"), "ab")  # noqa: SIM115  # the child's
    with log:
        return subprocess.Popen(
            [sys.executable, str(EXAMPLES / tool.command[0]), *tool.command[1:]],
            cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def fresh(tool: Tool, folder: Path) -> None:
    """An empty folder with nothing but what the tool is given."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, path in tool.given.items():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / name)


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kill(process: subprocess.Popen, workers_too: bool) -> None:
    """SIGKILL the tool, and its workers with it, or leave it to them to notice."""
    if workers_too:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # two runs in one folder would be another test
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise RuntimeError("workers outlive their parent")


def _all_there(folder: Path) -> bool:
    """Whether a tool ended because a run before it was killed when all was done: in its last moment."""
    return "exists already" in folder.with_suffix(".log").read_text(errors="replace").splitlines()[-1]


def disturb(tool: Tool, folder: Path, kills: int, seed: int = 0, say: Callable[[str], Any] = print) -> Outcome:
    """Kill a tool so often, and compare."""
    draw = random.Random(seed)
    calm, troubled = folder / "calm", folder / "troubled"
    fresh(tool, calm)
    begun = time.monotonic()
    if start(tool, calm).wait():
        raise RuntimeError(f"{tool.name} failed; see {calm.with_suffix('.log')}")
    outcome = Outcome(time.monotonic() - begun)
    expected = contents(calm)
    while outcome.kills < kills:
        fresh(tool, troubled)
        while True:
            before = contents(troubled)
            process = start(tool, troubled)
            try:
                status = process.wait(draw.uniform(0, outcome.seconds) if outcome.kills < kills else None)
            except subprocess.TimeoutExpired:
                kill(process, workers_too=outcome.kills % 2 == 1)
                outcome.kills += 1
                outcome.resumed += before != contents(troubled) or len(before) > len(tool.given)
                continue
            if status and not _all_there(troubled):
                raise RuntimeError(f"{tool.name} failed; see {troubled.with_suffix('.log')}")
            break
        outcome.compare(expected, contents(troubled))
    said = "identical" if not outcome.differences else f"DIFFERENT: {', '.join(outcome.differences)}"
    say(f"{tool.name}: {outcome.kills} kills, {outcome.ends} runs brought to an end, {said}")
    return outcome


def text_tools(text: Path, lines: int, workers: int = 2) -> list[Tool]:
    """prepare_text.py and tokenize_text.py on so many lines of a plain text."""
    parallel = f"workers={workers}"
    return [
        Tool(
            "prepare_text",
            ["prepare_text.py", "source=text.txt", "output=out.json.gz", "valid_lines=50", "valid_output=valid.json",
             f"max_lines={lines}", parallel],
            {"text.txt": text},
        ),
        Tool(
            "tokenize_text english",
            ["tokenize_text.py", "manifest=text.json", "output=out.json", "units=units.json", f"max_lines={lines}",
             parallel],
            {"text.json": text.with_suffix(".json")},
        ),
        Tool(
            "tokenize_text espeak",
            ["tokenize_text.py", "text_tokenizer=espeak", "language=en", "manifest=text.json", "output=out.json.gz",
             "units=units.json", f"max_lines={lines // 4}", "skip_bad=true", parallel],
            {"text.json": text.with_suffix(".json"), "units.json": text.with_name("espeak_units.json")},
        ),
        Tool(
            "make_lexicon",
            ["make_lexicon.py", "language=en", "source=text.txt", "output=out.txt", "units=units.json"],
            {"text.txt": text},
        ),
    ]  # fmt: skip


def speech_tools(corpus: Path, aligner: Path) -> list[Tool]:
    """The tools that read or make speech, on the demo's corpus; other models lie beside ``aligner``."""
    train = f"manifest={corpus / 'train.json'}"
    kmeans = aligner.with_name("kmeans.safetensors")
    return [
        Tool(
            "prepare_data folder",
            ["prepare_data.py", "corpus=folder", "source=audio", "output=out.json", "decode=true", "workers=2"],
            {"audio": corpus / "train"},
        ),
        Tool(
            "prepare_data demo",
            ["prepare_data.py", "corpus=demo", "output=out", "train_minutes=1", "untranscribed_minutes=1",
             "valid_minutes=0.2", "test_minutes=0.2", "sentences=2000"],
            {},
        ),
        Tool(
            "tokenize_speech pocketsphinx",
            ["tokenize_speech.py", train, "output=out.json", "units=units.json", "workers=2"],
            {},
        ),
        Tool(
            "tokenize_speech gmm",
            ["tokenize_speech.py", "speech_tokenizer=gmm", f"model={aligner}", train, "output=out.json.gz",
             "units=units.json", "workers=2"],
            {},
        ),
        Tool(
            "tokenize_speech kmeans",
            ["tokenize_speech.py", "speech_tokenizer=kmeans", f"kmeans={kmeans}", train, "output=out.json.gz",
             "units=units.json", "utterances=4", "workers=2"],
            {},
        ),
        Tool(
            "tokenize_text text_to_unit",
            ["tokenize_text.py", "text_tokenizer=text_to_unit", f"model={aligner.with_name('text_to_unit.nemo')}",
             "phone_tokenizer.style=plain", "manifest=text.json", "output=out.json.gz", "units=units.json",
             "sentences=32", "max_lines=2000", "workers=2"],
            {"text.json": corpus / "text.json"},
        ),
        Tool(
            "train_kmeans",
            ["train_kmeans.py", train, "output=kmeans.safetensors", "clusters=50", "first_frames=2000",
             "block_frames=1000", "passes=40", "restarts=2", "save_seconds=0.5", "threads=1"],
            {},
        ),
        Tool(
            "train_aligner",
            ["train_aligner.py", train, "output=aligner.safetensors", "threads=1", "plan.passes=6", "plan.settle=1",
             "plan.components=300"],
            {},
        ),
    ]  # fmt: skip


def prepare(work: Path, lines: int, minutes: float) -> tuple[Path, Path]:
    """What the tools are given: a corpus, its text as a manifest, an inventory, and an aligner with its likes.

    Returns:
        the paths of the text and of the aligner.
    """
    corpus, text = work / "corpus", work / "corpus" / "text.txt"
    for marker, command in (
        (text, ["prepare_data.py", "corpus=demo", f"output={corpus}", f"train_minutes={minutes:g}",
                "untranscribed_minutes=0.1", "valid_minutes=0.1", "test_minutes=0.1", f"sentences={lines}"]),
        (text.with_suffix(".json"), ["prepare_text.py", f"source={text}", f"output={text.with_suffix('.json')}"]),
        (corpus / "espeak_units.json", ["make_lexicon.py", "language=en", f"source={text}",
                f"output={work}/lexicon.txt", f"units={corpus}/espeak_units.json"]),
        (work / "aligner.safetensors", ["train_aligner.py", f"manifest={corpus}/train.json",
                f"output={work}/aligner.safetensors", "plan.passes=6", "plan.settle=1", "plan.components=300"]),
        (work / "kmeans.safetensors", ["train_kmeans.py", f"manifest={corpus}/train.json",
                f"output={work}/kmeans.safetensors", "clusters=50", "first_frames=2000", "block_frames=1000"]),
    ):  # fmt: skip
        if not marker.exists():
            subprocess.run([sys.executable, str(EXAMPLES / command[0]), *command[1:]], check=True)
    if not (work / "text_to_unit.nemo").exists():
        untrained_text_to_unit(work / "text_to_unit.nemo")
    return text, work / "aligner.safetensors"


def untrained_text_to_unit(path: Path) -> None:
    """Write a tiny text-to-unit model: what it says does not matter, only that it is the same each time."""
    import torch

    from nemo_speechlm.models.text_to_unit.model import TextToUnitModel
    from nemo_speechlm.testing.configs import tiny_text_to_unit_config
    from nemo_speechlm.units.phones import phoneme_inventory

    with tempfile.TemporaryDirectory() as folder:
        config = tiny_text_to_unit_config(folder)
        phoneme_inventory("plain").save(config.phones)
        torch.manual_seed(0)
        model = TextToUnitModel(config)
        torch.nn.init.constant_(model.duration_predictor.proj.bias, 1.5)  # 3 or 4 frames
        model.save_to(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--lines", type=int, default=20000, help="of text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=2, help="of speech")
    parser.add_argument("--only", help="tools whose name has this in it, a regular expression")
    parser.add_argument("--trainings", action="store_true", help="kill trainings instead of the tools for data")
    parser.add_argument("--steps", type=int, default=40, help="of trainings")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    sys.exit(not (kill_trainings if arguments.trainings else kill_tools)(arguments, work))


def kill_trainings(arguments: argparse.Namespace, work: Path) -> bool:
    """Kill trainings; returns whether all ended with the weights that they should have."""
    import killed_training
    from common import report

    killed_training.prepare()
    all_same = True
    for number, training in enumerate(killed_training.trainings(work, arguments.steps)):
        if arguments.only and not re.search(arguments.only, training.name):
            continue
        folder = work / training.name.replace(",", "").replace(" ", "_")
        outcome = killed_training.disturb(training, folder, arguments.kills, arguments.seed + number)
        report("kill_and_resume", [row(training.name, outcome)], packages=("numpy", "torch", "nemo_toolkit", "lhotse"))
        all_same = all_same and not outcome.differences
    return all_same


def row(name: str, outcome: Any) -> dict[str, Any]:
    """The cells of a table about one tool or training."""
    return {
        "tool": name,
        "undisturbed_s": outcome.seconds,
        "kills": outcome.kills,
        "with_something_to_go_on_with": outcome.resumed,
        "runs_ended": outcome.ends,
        "result": "identical" if not outcome.differences else _short(outcome.differences),
    }


def _short(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    return " ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def kill_tools(arguments: argparse.Namespace, work: Path) -> bool:
    """Kill the tools for data; returns whether all ended with the files that they should have."""
    from common import report

    text, aligner = prepare(work, arguments.lines, arguments.minutes)
    all_same = True
    for number, tool in enumerate([*text_tools(text, arguments.lines), *speech_tools(text.parent, aligner)]):
        if arguments.only and not re.search(arguments.only, tool.name):
            continue
        outcome = disturb(tool, work / tool.name.replace(" ", "_"), arguments.kills, arguments.seed + number)
        packages = ("numpy", "torch", "pocketsphinx", "phonemizer")
        report("kill_and_resume", [row(tool.name, outcome)], packages=packages)
        all_same = all_same and not outcome.differences
    return all_same


if __name__ == "__main__":
    main()

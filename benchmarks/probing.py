r"""Probing: what a pretrained encoder's layers know, beside mel features and the same encoder with random weights.

    python benchmarks/probing.py --work runs/probing --model pretrained.nemo \
        --train train_units.json --valid valid_units.json --test test_units.json

The manifests are those that tokenize_speech.py wrote for transcribed speech: ``text``, ``speaker``, and phonemes with
durations, by which words are cut out. The tasks are SUPERB's:

- phones and characters: the manifests as they are.
- speaker: speakers of ``--train`` with several chapters, as LibriSpeech names its files; the last one is tested.
- keyword: the twenty most frequent words of four letters or more, cut out where the aligner heard them.
- intent: self-made commands (an action, an object, a place) by espeak-ng's voices; those of the test are not learned.

Head and updates of a task are the same for all models, and so is the learning rate. Steps that are done are not done
again. Figures go to probing.csv: p is that of a paired bootstrap test of the pretrained model against the row's.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.common import report  # noqa: E402
from nemo_speechlm.data.corpora.demo.corpus import HELD_OUT_VARIANTS, SAMPLE_RATE, TRAIN_VARIANTS, in_a_room  # noqa: E402
from nemo_speechlm.data.corpora.demo.espeak import Voice, espeak  # noqa: E402
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest  # noqa: E402
from nemo_speechlm.files import Record  # noqa: E402

TASKS: dict[str, list[str]] = {
    "phones": ["optim.lr=1e-2"],
    "characters": ["head.hidden=256", "head.projection=256", "optim.lr=1e-3"],
    "speaker": ["trainer.max_steps=1500", "optim.lr=1e-3"],
    "keyword": ["optim.lr=1e-3"],
    "intent": ["optim.lr=1e-3", "label_keys=[action,object,place]"],
}
PARTS = ("train", "valid", "test")
KEYWORDS, LEAST_LETTERS = 20, 4
MARGIN = 10
"""Frames of 10 ms around a word."""
COMMANDS = {"train": 600, "valid": 120, "test": 240}
ACTIONS = {
    "on": ("turn on", "switch on", "put on"),
    "off": ("turn off", "switch off", "cut off"),
    "up": ("turn up", "raise", "increase"),
    "down": ("turn down", "lower", "decrease"),
}
OBJECTS = {
    "lights": ("the lights", "the lamps"),
    "heat": ("the heating", "the heat"),
    "music": ("the music", "the sound"),
}
PLACES = {
    "kitchen": ("in the kitchen",), "bedroom": ("in the bedroom",), "bathroom": ("in the bathroom", "in the washroom"),
    "any": ("", "please"),
}  # fmt: skip


def speaker_parts(train: Path) -> dict[str, list[Record]]:
    """Utterances of speakers with several chapters: the last one to test, a tenth of the others to choose by.

    Within a chapter the room and the microphone alone would tell who speaks.
    """
    chapters: dict[str, dict[str, list[Record]]] = {}
    for _, record in read_manifest(train, ["text", "speaker"]):
        chapter = Path(record["audio_filepath"]).stem.rpartition("-")[0]
        chapters.setdefault(record["speaker"], {}).setdefault(chapter, []).append(record)
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for own in chapters.values():
        if len(own) > 1:
            *learned, tested = (own[name] for name in sorted(own))
            parts["test"] += tested
            for number, record in enumerate(chain(*learned)):
                parts["valid" if number % 10 == 9 else "train"].append(record)
    if not parts["test"]:
        raise SystemExit(f"{train}: no speaker has files of two chapters (named speaker-chapter-number)")
    return parts


def keyword_parts(manifests: dict[str, Path]) -> dict[str, list[Record]]:
    """Stretches of speech in which a frequent word is said, with the word as ``label``."""
    said = Counter(
        word for _, record in read_manifest(manifests["train"], ["text"]) for word in record["text"].split()
    )
    keywords = {word for word, _ in [pair for pair in said.most_common() if len(pair[0]) >= LEAST_LETTERS][:KEYWORDS]}
    return {part: list(_words(path, keywords)) for part, path in manifests.items()}


def _words(manifest: Path, keywords: set[str]) -> Iterator[Record]:
    for number, record in read_manifest(manifest, ["text", "units", "unit_durations"]):
        frames = np.cumsum([0, *record["unit_durations"]])
        units = record["units"].split()
        begins = [i for i, unit in enumerate(units) if unit.endswith(("_B", "_S"))]
        ends = [i + 1 for i, unit in enumerate(units) if unit.endswith(("_E", "_S"))]
        words = record["text"].split()
        if not len(words) == len(begins) == len(ends):
            raise SystemExit(f"{manifest}, line {number}: {len(words)} words, {len(begins)} begin in its units")
        for word, begin, end in zip(words, begins, ends, strict=True):
            if word in keywords:
                start, stop = max(0, frames[begin] - MARGIN), min(frames[-1], frames[end] + MARGIN)
                offset = record.get("offset", 0) + float(start) / 100
                place = {"offset": round(offset, 4), "duration": float(stop - start) / 100}
                yield {
                    "audio_filepath": record["audio_filepath"],
                    **place,
                    "label": word,
                    "speaker": record["speaker"],
                }


def intent_parts(folder: Path) -> dict[str, list[Record]]:
    """Commands that espeak-ng speaks in small noisy rooms; voices of ``test`` are in no other part."""
    voices = {"train": TRAIN_VARIANTS, "valid": HELD_OUT_VARIANTS[::2], "test": HELD_OUT_VARIANTS[1::2]}
    return {part: list(_commands(folder, part, voices[part])) for part in PARTS}


def _commands(folder: Path, part: str, variants: list[str]) -> Iterator[Record]:
    rng = np.random.default_rng(PARTS.index(part))
    (folder / part).mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(COMMANDS[part]), desc=f"speaking {part}"):
        intent, words = {}, []
        for slot, choices in (("action", ACTIONS), ("object", OBJECTS), ("place", PLACES)):
            intent[slot] = str(rng.choice(list(choices)))
            words.append(str(rng.choice(choices[intent[slot]])))
        name = str(rng.choice(variants))
        voice = Voice(
            f"en-us+{name}", int(rng.integers(125, 171)), int(rng.integers(40, 61)), int(rng.integers(30, 71))
        )
        spoken = np.pad(espeak().speak(" ".join(words), voice, seed=number), 2000)
        audio = in_a_room(soxr.resample(spoken, espeak().sample_rate, SAMPLE_RATE), rng)
        path = folder / part / f"{number:04d}.flac"
        soundfile.write(path, audio, SAMPLE_RATE)
        duration = round(len(audio) / SAMPLE_RATE, 4)
        yield {"audio_filepath": str(path.absolute()), "duration": duration, **intent, "speaker": name}


def probe(options: argparse.Namespace, task: str, name: str, model: list[str], manifests: dict[str, Path]) -> Path:
    """Run a probe unless its result is there; returns its folder."""
    output = options.work / "probes" / task / name
    if not (output / "result.json").exists():
        command = [
            sys.executable, ROOT / "examples" / "probe.py", "--config-name", "probe_small", f"task={task}", *model,
            *(f"{part}={path}" for part, path in manifests.items()), f"output={output}",
            f"cache={options.work / 'features'}", *TASKS[task], *options.overrides,
        ]  # fmt: skip
        if name != "pretrained":
            command.append(f"against=[{output.parent / 'pretrained'}]")
        subprocess.run(list(map(str, command)), check=True)
    return output


def row(folder: Path, task: str, name: str) -> dict[str, Any]:
    """A line of the table."""
    result = json.loads((folder / "result.json").read_text())
    measure = result["measure"]
    low, high = result[f"{measure}_interval"]
    found = {"task": task, "model": name, "measure": measure, "rate": result[measure], "low": low, "high": high}
    tests = list(folder.glob("against_*.json"))
    found["p"] = json.loads(tests[0].read_text())["p_value"] if tests else ""
    weights = result["layer_weights"]
    return found | {"utterances": result["utterances"], "best_layer": max(weights, key=weights.get)}


def main() -> None:
    """Make the manifests, run the probes, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--model", type=Path, required=True, help=".nemo file of the pretrained model")
    for part in PARTS:
        parser.add_argument(f"--{part}", type=Path, required=True, help="manifest with text, speaker, units")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], help="options of all probes")
    options = parser.parse_args()
    given = {part: getattr(options, part) for part in PARTS}
    models = {
        "pretrained": [f"model={options.model}"],
        "random weights": ["model=random", f"recipe={options.model}"],
        "mel features": ["model=fbank"],
    }
    makers = {
        "speaker": lambda: speaker_parts(options.train),
        "keyword": lambda: keyword_parts(given),
        "intent": lambda: intent_parts(options.work / "intent"),
    }
    rows = []
    for task in options.tasks:
        manifests = given
        if task in makers:
            manifests = {part: options.work / f"{task}_{part}.json" for part in PARTS}
            if not all(path.exists() for path in manifests.values()):
                for part, records in makers[task]().items():
                    write_manifest(manifests[part], records)
        for name, model in models.items():
            rows.append(row(probe(options, task, name.replace(" ", "_"), model, manifests), task, name))
    report("probing", rows, ("torch", "nemo_toolkit"))


if __name__ == "__main__":
    main()

"""The phone aligner against exact times, against pocketsphinx, and on real speech.

    apt-get install festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts
    OMP_NUM_THREADS=2 python benchmarks/aligner.py times text=$DATA/novels.txt.gz work=runs/festival
    OMP_NUM_THREADS=2 python benchmarks/aligner.py real train=$DATA/train.json work=runs/real

``times``: festival's voices say sentences of a text. Aligners are trained on some and tested on others: with
festival's own phone strings, and with CMUdict's pronunciations, where pocketsphinx aligns the same utterances.
``real``: training on transcribed speech as train_aligner.py does it by default, timed; and what fails to align.
"""

import json
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from common import report
from festival import ARPABET, synthesize
from omegaconf import OmegaConf

from nemo_speechlm.alignment.training import TrainingPlan
from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import SkipItem
from nemo_speechlm.evaluation.aligner import TimedPhone, alignment_accuracy
from nemo_speechlm.files import Record, iter_lines
from nemo_speechlm.jobs.engines.executor import available_cores
from nemo_speechlm.pronouncing.word_pronouncer import Pronouncing
from nemo_speechlm.tokenizers.gmm.corpus import CorpusSource
from nemo_speechlm.tokenizers.gmm.tokenizer import GmmTokenizing
from nemo_speechlm.tokenizers.gmm.training import AlignerTraining
from nemo_speechlm.tokenizers.pocketsphinx.tokenizer import SphinxTokenizing
from nemo_speechlm.tokenizers.speech import SpeechInput, SpeechTokenizer
from nemo_speechlm.units.phones import SILENCE, base_phone

CONF = Path(__file__).parent.parent / "conf" / "train_aligner.yaml"
PACKAGES = ("torch", "numpy", "pocketsphinx")


def plan() -> TrainingPlan:
    """As train_aligner.py trains by default."""
    return TrainingPlan(**OmegaConf.to_container(OmegaConf.load(CONF).plan))  # type: ignore[arg-type]


def times(text: str, work: str, train: str = "600", test: str = "120", seed: str = "0") -> None:
    folder = Path(work).resolve()
    records = synthesize(sentences(text, int(1.4 * (int(train) + int(test))), int(seed)), folder)
    records = records[: int(train) + int(test)]
    own = [spelled_by_pronunciation(record) for record in records]
    (folder / "lexicon.txt").write_text("".join(sorted({line for _, lines in own for line in lines})))
    splits = {"train": slice(0, int(train)), "test": slice(int(train), None)}
    for name, part in splits.items():
        write_manifest(folder / f"own_{name}.json", [record for record, _ in own[part]])
        write_manifest(folder / f"cmu_{name}.json", records[part])
    truth = [true_segments(record) for record in records[splits["test"]]]
    rows = []

    own_words = Pronouncing.read(folder / "lexicon.txt", language="x-festival", style="plain", phonemizer=None)
    train_aligner(own_words, folder / "own_train.json", folder / "own.safetensors")
    found = aligned(GmmTokenizing(str(folder / "own.safetensors")), folder / "own_test.json", lambda phone: phone)
    rows.append(row("ours, trained here", "festival's own", found, truth))

    mapped = [[TimedPhone(arpabet(s.phone), s.end) for s in segments] for segments in truth]
    train_aligner(Pronouncing(), folder / "cmu_train.json", folder / "cmu.safetensors")
    found = aligned(GmmTokenizing(str(folder / "cmu.safetensors")), folder / "cmu_test.json", base_phone)
    rows.append(row("ours, trained here", "CMUdict", found, mapped))
    found = aligned(SphinxTokenizing(), folder / "cmu_test.json", base_phone)
    rows.append(row("pocketsphinx", "CMUdict", found, mapped))
    report("aligner_times", rows, PACKAGES)


def real(train: str, work: str) -> None:
    folder = Path(work)
    folder.mkdir(parents=True, exist_ok=True)
    began, cpu = time.perf_counter(), time.process_time()
    done = train_aligner(Pronouncing(), Path(train), folder / "aligner.safetensors", threads=available_cores())
    row = {
        "hours": done.seconds / 3600,
        "utterances": done.utterances,
        "failed": len(done.failures),
        "log-likelihood": done.reports[-1].log_likelihood,
        "wall s": time.perf_counter() - began,
        "CPU s": time.process_time() - cpu,
    }
    report("aligner_real", [row], PACKAGES)


def train_aligner(pronouncing: Pronouncing, manifest: Path, output: Path, threads: int = 1):
    return AlignerTraining(CorpusSource(manifest), pronouncing, plan(), threads=threads).run(output)


def sentences(path: str, count: int, seed: int) -> list[str]:
    """Some sentences of 5 to 15 plain words."""
    fitting = [
        line.strip()
        for _, line in iter_lines(path)
        if 5 <= len(line.split()) <= 15 and re.fullmatch(r"[a-z ']+", line.strip())
    ]
    return random.Random(seed).sample(fitting, count)


def spelled_by_pronunciation(record: Record) -> tuple[Record, list[str]]:
    """The record with words that each have one pronunciation, festival's, and their lines of a lexicon."""
    words, lines = [], []
    for word, phones in zip(record["text"].split(), record["pronunciations"], strict=True):
        name = f"{word.strip(chr(39))}-{phones.replace(' ', '-')}"
        words.append(name)
        lines.append(f"{name} {phones}\n")
    return {**record, "text": " ".join(words)}, lines


def true_segments(record: Record) -> list[TimedPhone]:
    merged: list[TimedPhone] = []
    for phone, end in record["segments"]:
        segment = TimedPhone(SILENCE if phone == "pau" else phone, end)
        if merged and segment.phone == SILENCE == merged[-1].phone:
            merged.pop()
        merged.append(segment)
    return merged


def arpabet(phone: str) -> str:
    return ARPABET.get(phone, phone.upper())


def aligned(tokenizing, manifest: Path, name) -> list[list[TimedPhone] | None]:
    """Segments of each utterance, None where there are none."""
    prepared = tokenizing.prepared(manifest, manifest)
    tokenizer: SpeechTokenizer = prepared.make()
    found: list[list[TimedPhone] | None] = []
    for number, line in iter_lines(manifest):
        record = json.loads(line)
        samples = read_utterance(record, manifest, number)
        try:
            units = tokenizer.tokenize(SpeechInput(samples, record["text"], record))
        except SkipItem:
            found.append(None)
            continue
        ends = torch.tensor(units.durations).cumsum(0) / 100
        found.append([TimedPhone(name(u), e) for u, e in zip(units.units, ends.tolist(), strict=True)])
    return found


def row(
    aligner: str, pronunciations: str, found: Sequence[list[TimedPhone] | None], truth: list[list[TimedPhone]]
) -> dict:
    pairs = [(f, t) for f, t in zip(found, truth, strict=True) if f is not None]
    accuracy = alignment_accuracy(pairs)
    return {
        "aligner": aligner,
        "pronunciations": pronunciations,
        "utterances": len(found),
        "failed": len(found) - len(pairs),
        "frames right": accuracy.frames,
        "boundaries within 20 ms": accuracy.boundaries,
        "of those matched": accuracy.matched_boundaries,
        "mean error ms": 1000 * accuracy.mean_error,
    }


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("times", "real"):
        sys.exit(str(__doc__))
    {"times": times, "real": real}[sys.argv[1]](**dict(argument.split("=", 1) for argument in sys.argv[2:]))

r"""What it costs to turn a large corpus into units: 960 h of which 100 h are aligned and the rest is classified.

    python benchmarks/corpus_cost.py $DATA/train.json --text $DATA/novels.txt.gz \
        [--hours 960] [--aligned 100] [--lines 40000000] [--gpu-tflops 100]

Each step's work is done on a sample of the speech and the text, with one thread. Reading and writing are left out
(benchmarks/tokenizing.py has whole commands). CPU seconds are scaled to the corpus; start-up is not in them. The
aligner's training is not repeated: its rate is that of aligner_real.csv. Weights of classifiers are drawn, for
speed does not depend on them. Their training is counted in operations; with ``--gpu-tflops``, the rate of a
pretraining step that benchmarks/gpu.py measured, they become hours of such a GPU. Appends to corpus_cost.csv.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from common import FOLDER, report
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.files import iter_lines
from nemo_speechlm.models import FrameClassifierModel
from nemo_speechlm.tokenizers.english_text import PhonemeTextTokenizer
from nemo_speechlm.tokenizers.frame_classifier import FrameClassifierTokenizing
from nemo_speechlm.tokenizers.pocketsphinx.tokenizer import SphinxTokenizing
from nemo_speechlm.tokenizers.speech import SpeechInput, SpeechTokenizer
from nemo_speechlm.tokenizers.text import LineGenerators
from nemo_speechlm.units.phones import phoneme_inventory

RATE = 16000
BATCH = 512


def seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def recipe(name: str, units: Path) -> Any:
    """A recipe of a frame classifier, without data."""
    with initialize_config_dir(str(FOLDER.resolve().parent / "conf"), version_base=None):
        missing = [f"model.{part}.speech.manifest_filepath=none" for part in ("train_ds", "validation_ds")]
        return compose(name, overrides=["output=none", f"model.units={units}", *missing])


def speech_rate(tokenizer: SpeechTokenizer, speech: Sequence[SpeechInput]) -> float:
    """CPU seconds for an hour of speech."""
    tokenizer.tokenize_batch(speech[:1])
    hours = sum(len(each.samples) for each in speech) / RATE / 3600
    return seconds(lambda: tokenizer.tokenize_batch(speech)) / hours


def text_rate(sentences: Sequence[str]) -> float:
    """CPU seconds for a million sentences, as their first ones take them: later on, more of the words are known."""
    tokenizer = PhonemeTextTokenizer()

    def run() -> None:
        for first in range(0, len(sentences), BATCH):
            part = sentences[first : first + BATCH]
            for made in tokenizer.tokenize_batch(part, LineGenerators(0, range(first, first + len(part)))):
                json.dumps({"text": "", "units": getattr(made, "units", "")}, ensure_ascii=False)

    return seconds(run) / len(sentences) * 1e6


def made_classifier(name: str, folder: Path, like: Sequence[list[str]]) -> tuple[FrameClassifierModel, Path]:
    """A classifier with drawn weights, and its file; its bigram is that of some units."""
    torch.manual_seed(0)
    units, manifest = folder / "units.json", folder / "units_of_text.json"
    phoneme_inventory().save(units)
    manifest.write_text("".join(json.dumps({"units": " ".join(each)}) + "\n" for each in like))
    settings = OmegaConf.to_container(recipe(name, units).model, resolve=True)
    assert isinstance(settings, dict)
    model = FrameClassifierModel(OmegaConf.create({k: v for k, v in settings.items() if not str(k).endswith("_ds")}))
    model.estimate_bigram([str(manifest)])
    path = folder / f"{name}.nemo"
    model.save_to(str(path))
    return model, path


def training_operations(name: str, model: FrameClassifierModel, folder: Path, audio: float = 10.0) -> float:
    """Operations of all updates of a recipe, forward and backward, counted on some seconds of audio."""
    settings = recipe(name, folder / "units.json")
    with FlopCounterMode(display=False) as counter:
        logits, _ = model.train()(torch.randn(1, round(audio * RATE)), torch.tensor([round(audio * RATE)]))
        logits.sum().backward()
    taken = settings.trainer.max_steps * settings.model.train_ds.speech.batch_duration
    return counter.get_total_flops() / audio * taken


def aligner_rate() -> float:
    """CPU seconds that training an aligner takes for an hour of speech, as measured."""
    with (FOLDER / "aligner_real.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return float(last["CPU s"]) / float(last["hours"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="transcribed English speech")
    parser.add_argument("--text", required=True, help="plain text, a sentence a line; .gz is unpacked")
    parser.add_argument("--hours", type=float, default=960.0, help="of the corpus")
    parser.add_argument("--aligned", type=float, default=100.0, help="hours that are aligned")
    parser.add_argument("--lines", type=float, default=40e6, help="sentences of text")
    parser.add_argument("--gpu-tflops", type=float, help="measured rate of a pretraining step")
    parser.add_argument("--utterances", type=int, default=24, help="measured with")
    parser.add_argument("--sentences", type=int, default=20_000, help="measured with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    taken = list(islice(read_manifest(arguments.manifest, ["audio_filepath", "text"]), arguments.utterances))
    speech = [SpeechInput(read_utterance(r, arguments.manifest, n, RATE), r["text"], r) for n, r in taken]
    sentences = [line.strip() for _, line in islice(iter_lines(arguments.text), arguments.sentences)]
    rows: list[dict[str, Any]] = []

    def add(step: str, amount: float, of: str, rate: float | None, operations: float | None = None) -> None:
        gpu = operations and arguments.gpu_tflops and operations / arguments.gpu_tflops / 1e12 / 3600
        rows.append({
            "step": step, "amount": amount, "of": of, "cpu_s_for_one": "" if rate is None else rate,
            "core_hours": "" if rate is None else amount * rate / 3600,
            "PFLOP": "" if operations is None else operations / 1e15, "gpu_hours": gpu or "",
        })  # fmt: skip

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        spoken = PhonemeTextTokenizer()
        like = [spoken.units(text) for text in sentences[:2000] if any(c.isalpha() for c in text)]
        rest = arguments.hours - arguments.aligned
        sphinx = SphinxTokenizing().make()
        add("align with pocketsphinx", arguments.aligned, "hours", speech_rate(sphinx, speech))
        add("or train an aligner and align with it", arguments.aligned, "hours", aligner_rate())
        for name in ("frame_classifier_small", "frame_classifier"):
            model, path = made_classifier(name, folder, like)
            add(f"train {name}", 1, "training", None, training_operations(name, model, folder))
            tokenizer = FrameClassifierTokenizing(str(path), device="cpu").make()
            add(f"classify the rest with {name}", rest, "hours", speech_rate(tokenizer, speech))
        some = [each._replace(text=None) for each in speech[:4]]  # it takes long
        add("or decode the rest with pocketsphinx", rest, "hours", speech_rate(sphinx, some))
        add("text to units", arguments.lines / 1e6, "million sentences", text_rate(sentences))
    report("corpus_cost", rows, ("torch", "nemo_toolkit", "pocketsphinx", "numpy"))


if __name__ == "__main__":
    main()

r"""Errors of a frame classifier in phones and frames, beside those of pocketsphinx's allphone decoding.

    python benchmarks/frame_classifier.py classifier.nemo valid_units.json test_units.json

The manifests hold aligned units of speakers that the classifier was not trained on; their phones, without stress,
position in the word and silence, are the reference. pocketsphinx decodes with the phone n-grams that it comes with;
their weight and the beam are those with the fewest errors on a part of the same utterances.
The classifier decodes as its file says. Rows go to frame_classifier.csv.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pocketsphinx
import torch
from common import report
from tqdm import tqdm

from nemo_speechlm.data.audio.files import to_int16
from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.evaluation.error_rates import ErrorCounts, count_errors
from nemo_speechlm.evaluation.report import percent
from nemo_speechlm.tokenizers.frame_classifier import FrameClassifierTokenizing
from nemo_speechlm.tokenizers.pocketsphinx.align import run_decoder
from nemo_speechlm.tokenizers.speech import SpeechInput, SpeechUnits
from nemo_speechlm.units.inventory import UnitInventory
from nemo_speechlm.units.phones import SILENCE, base_phone

SAMPLE_RATE = 16000
PHONE_LM = Path(pocketsphinx.__file__).parent / "model" / "en-us" / "en-us-phone.lm.bin"
GRID = {"lw": (0.5, 1.0, 1.5, 2.0, 3.0, 6.5), "beam": (1e-20, 1e-48)}
"""Options that are tried; lw 6.5 and beam 1e-48 are the defaults. The insertion penalty (pip) changes nothing."""

Segments = list[tuple[str, int]]
"""Phones with their frames."""


class Case(NamedTuple):
    """An utterance with what is said in it."""

    manifest: str
    samples: np.ndarray
    reference: Segments


class Score(NamedTuple):
    """Errors of some utterances."""

    phones: ErrorCounts
    right_frames: int
    frames: int


def cases(manifests: Sequence[Path], inventory: UnitInventory) -> Iterator[Case]:
    """Utterances of manifests with units."""
    for path in manifests:
        for number, record in read_manifest(path, ["audio_filepath", "units", "unit_durations"]):
            ids, durations = unit_sequence(record, inventory, path, number)
            units = [base_phone(symbol) for symbol in inventory.decode(ids)]
            samples = read_utterance(record, path, number, SAMPLE_RATE)
            yield Case(path.stem, samples, list(zip(units, durations, strict=True)))


def allphone(lw: float, beam: float) -> Callable[[np.ndarray], Segments]:
    """Decoding of phones by pocketsphinx, with these options."""
    pocketsphinx.set_loglevel("FATAL")
    decoder = pocketsphinx.Decoder(lm=None, allphone=str(PHONE_LM), lw=lw, beam=beam, pbeam=beam)

    def decode(samples: np.ndarray) -> Segments:
        run_decoder(decoder, to_int16(samples).tobytes())
        found = [(s.word, s.end_frame - s.start_frame + 1) for s in decoder.seg() or ()]
        return [(word if word.isalpha() else SILENCE, frames) for word, frames in found]  # +NSN+ and its like

    return decode


def score(reference: Segments, found: Segments) -> Score:
    """Errors of one utterance."""
    expected, heard = (np.repeat([p for p, _ in s], [n for _, n in s]) for s in (reference, found))
    size = min(len(expected), len(heard))
    errors = count_errors(*([phone for phone, _ in s if phone != SILENCE] for s in (reference, found)))
    return Score(errors, int((expected[:size] == heard[:size]).sum()), len(expected))


def total(scores: Sequence[Score]) -> dict[str, Any]:
    """Cells of a table."""
    phones = sum((s.phones for s in scores), ErrorCounts())
    return {
        "phone error rate": f"{percent(phones.rate)}",
        "substitutions": phones.substitutions,
        "insertions": phones.insertions,
        "deletions": phones.deletions,
        "phones": phones.length,
        "frames right": f"{sum(s.right_frames for s in scores) / sum(s.frames for s in scores):.2%}",
    }


def tuned(sample: Sequence[Case]) -> dict[str, float]:
    """The options of GRID with the fewest phone errors on a sample."""
    best: tuple[float, dict[str, float]] = (float("inf"), {})
    for values in tqdm(list(product(*GRID.values())), desc="tuning pocketsphinx"):
        options = dict(zip(GRID, values, strict=True))
        decode = allphone(**options)
        errors = sum(score(case.reference, decode(case.samples)).phones.errors for case in sample)
        best = min(best, (errors, options), key=lambda item: item[0])
    return best[1]


def classify(tokenizing: FrameClassifierTokenizing, utterances: Sequence[Case]) -> list[Segments]:
    """What the classifier hears."""
    tokenizer = tokenizing.make()
    found = tokenizer.tokenize_batch([SpeechInput(case.samples, None, {}) for case in utterances])
    segments = []
    for units in found:
        if not isinstance(units, SpeechUnits):
            raise units
        segments.append([(base_phone(u), d) for u, d in zip(units.units, units.durations, strict=True)])
    return segments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the classifier's .nemo file")
    parser.add_argument("manifests", nargs="+", type=Path, help="with the units of other speakers")
    parser.add_argument("--tune-every", type=int, default=16, help="pocketsphinx is tuned on every so many utterances")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizing = FrameClassifierTokenizing(arguments.model, device="cpu")
    every = list(cases(arguments.manifests, tokenizing.inventory()))
    options = tuned(every[:: arguments.tune_every])
    decode = allphone(**options)
    start = time.process_time()
    heard = [decode(case.samples) for case in tqdm(every, desc="pocketsphinx")]
    middle = time.process_time()
    classified = classify(tokenizing, every)
    seconds = {"pocketsphinx": middle - start, "classifier": time.process_time() - middle}
    duration = sum(len(case.samples) for case in every) / SAMPLE_RATE
    names = {"pocketsphinx": f"pocketsphinx allphone {options}", "classifier": "frame classifier"}
    rows = []
    for manifest in [*dict.fromkeys(case.manifest for case in every), "all"]:
        for system, found in (("pocketsphinx", heard), ("classifier", classified)):
            pairs = [(c, f) for c, f in zip(every, found, strict=True) if manifest in (c.manifest, "all")]
            rows.append(
                {
                    "system": names[system],
                    "manifest": manifest,
                    "utterances": len(pairs),
                    **total([score(case.reference, segments) for case, segments in pairs]),
                    "CPU seconds per second of audio": seconds[system] / duration,
                }
            )
    report("frame_classifier", rows, ("torch", "nemo_toolkit", "pocketsphinx"))
    errors = [
        sum(score(c.reference, f).phones.errors for c, f in zip(every, x, strict=True)) for x in (heard, classified)
    ]
    print(f"{1 - errors[1] / errors[0]:.1%} fewer errors")


if __name__ == "__main__":
    main()

r"""How fast text becomes units: sentences a second through the commands themselves, start-up apart.

    python benchmarks/tokenizing.py --text $DATA/novels.txt.gz --lines 200000

Each command runs twice: on a few lines, which is start-up (imports, lexicon, worker processes), and on many. The rate
is that of the lines which the second run has more, in the time that it takes longer, so that words never met
before, and files read and written, are in it. Words outside the lexicon are predicted, as in the tool's defaults.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from common import FOLDER, report

from nemo_speechlm.files import iter_lines

EXAMPLES = FOLDER.parent / "examples"
FEW = 200


def seconds(*arguments: object) -> float:
    """Wall-clock time of an example."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, str(EXAMPLES / str(arguments[0])), *map(str, arguments[1:])], check=True, capture_output=True
    )
    return time.perf_counter() - start


def measure(name: str, lines: int, rounds: int, workers: int, run: Callable[[int, int], float]) -> dict[str, Any]:
    """A row: the best of several rounds of ``run(lines, round)``, for few lines and for many."""
    start_up, whole = (min(run(count, number) for number in range(rounds)) for count in (FEW, lines))
    rate = (lines - FEW) / (whole - start_up)
    return {
        "what": name, "lines": lines, "workers": workers, "start_up_s": start_up, "whole_s": whole,
        "sentences_per_s": rate,
    }  # fmt: skip


def unknown_words(manifest: Path, lines: int) -> tuple[int, int, int]:
    """Words of a text, those outside CMUdict, and how many different ones these are."""
    from nemo_speechlm.pronouncing.english import EnglishPhonemizer

    phonemizer, words, unknown, different = EnglishPhonemizer(), 0, 0, set()
    for _, line in islice(iter_lines(manifest), lines):
        for word in json.loads(line)["text"].split():
            words += 1
            if word not in phonemizer._lexicon:
                unknown += 1
                different.add(word)
    return words, unknown, len(different)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="plain text, one sentence a line; .gz is unpacked")
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--espeak", metavar="LANGUAGE", help="also by espeak-ng, as this language, of a tenth of it")
    arguments = parser.parse_args()
    lines, workers, rounds = arguments.lines, arguments.workers, arguments.rounds
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        common = ["overwrite=true", f"workers={workers}"]

        def prepare(count: int, number: int) -> float:
            return seconds(
                "prepare_text.py",
                f"source={arguments.text}",
                f"output={folder}/text.json",
                f"max_lines={count}",
                *common,
            )

        def english(count: int, number: int) -> float:
            return seconds(
                "tokenize_text.py", f"manifest={folder}/text.json", f"output={folder}/units.json.out",
                f"units={folder}/units.json", f"max_lines={count}", *common,
            )  # fmt: skip

        def espeak(count: int, number: int) -> float:
            return seconds(
                "tokenize_text.py", "text_tokenizer=espeak", f"language={arguments.espeak}",
                f"manifest={folder}/text.json", f"output={folder}/espeak.json.out", f"units={folder}/espeak.json",
                f"max_lines={count}", *common,
            )  # fmt: skip

        rows = [measure("prepare_text", lines, rounds, workers, prepare)]
        with open(folder / "text.json", encoding="utf-8") as file:
            kept = sum(1 for _ in file)
        rows.append(measure("tokenize_text english", kept, rounds, workers, english))
        if arguments.espeak:
            seconds(
                "make_lexicon.py", f"language={arguments.espeak}", f"source={folder}/text.json",
                f"output={folder}/lexicon.txt", f"units={folder}/espeak.json",
            )  # fmt: skip
            rows.append(measure(f"tokenize_text espeak {arguments.espeak}", kept // 10, rounds, workers, espeak))
        words, unknown, different = unknown_words(folder / "text.json", kept)
        report("tokenizing", rows, packages=("numpy", "cmudict", "g2p_en", "phonemizer"))
        print(f"{words} words, {unknown} of them ({unknown / words:.2%}) outside CMUdict: {different} different ones")


if __name__ == "__main__":
    main()

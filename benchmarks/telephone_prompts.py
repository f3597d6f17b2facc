r"""A new domain with real speech: the prompts of a telephone system, as Debian packs them.

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-en-g722 ffmpeg
    python benchmarks/telephone_prompts.py --output runs/prompts

One speaker reads 570 prompts (CC BY-SA 3.0) at 16 kHz. Prompts of three words or more are divided by their sentences:
half becomes text (``domain.txt``, nobody hears it), half is tested (``test.json`` with its audio). No sentence is in
both.
"""

import argparse
import gzip
import hashlib
import re
import subprocess
from pathlib import Path

import soundfile

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.files import atomic_write

DIGITS = dict(enumerate("zero one two three four five six seven eight nine".split()))
SPOKEN = {"#": " pound ", "*": " star ", "&": " and ", "%": " percent "}
LEAST_WORDS = 3


def sentences(prompt: str) -> list[str]:
    """The sentences of a prompt in lower case, numbers of one digit as words; empty if it says more than words."""
    if re.search(r"[\[\]<>()]|\d\d", prompt):
        return []
    for sign, word in SPOKEN.items():
        prompt = prompt.replace(sign, word)
    prompt = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", prompt.lower())
    parts = (re.sub(r"[^a-z']+", " ", part).strip() for part in re.split(r"[.!?]", prompt))
    return [part for part in parts if part]


def is_tested(text: str) -> bool:
    """A coin that falls the same way each time for the same text."""
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 0


def main() -> None:
    """Write the text and the test set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--list", type=Path, default=Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
    )
    parser.add_argument("--sounds", type=Path, default=Path("/usr/share/asterisk/sounds/en_US_f_Allison"))
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    prompts: dict[str, list[str]] = {}
    with gzip.open(options.list, "rt", encoding="utf-8", errors="replace") as file:
        lines = list(file)
    for line in lines:
        name, _, prompt = line.strip().partition(": ")
        said = sentences(prompt)
        if not name.startswith(";") and len(" ".join(said).split()) >= LEAST_WORDS:
            prompts[name] = said
    tested = {name: said for name, said in prompts.items() if is_tested(" ".join(said))}
    heard = {sentence for said in tested.values() for sentence in said}
    audio = options.output / "test"
    audio.mkdir(parents=True, exist_ok=True)
    records, texts = [], set()
    for name, said in sorted(tested.items()):
        source, target = options.sounds / f"{name}.g722", audio / f"{name.replace('/', '_')}.flac"
        text = " ".join(said)
        if not source.exists() or text in texts:
            continue
        texts.add(text)
        command = ["ffmpeg", "-v", "error", "-y", "-f", "g722", "-i", source, "-ar", "16000", target]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        duration = soundfile.info(target).duration
        records.append({"audio_filepath": f"test/{target.name}", "duration": round(duration, 4), "text": text})
    write_manifest(options.output / "test.json", records)
    unheard = {sentence for said in prompts.values() for sentence in said} - heard
    with atomic_write(options.output / "domain.txt") as file:
        file.writelines(sentence + "\n" for sentence in sorted(unheard))
    hours = sum(record["duration"] for record in records) / 3600
    print(f"{len(records)} prompts to test, {hours:.2f} h; {len(unheard)} sentences of text")


if __name__ == "__main__":
    main()

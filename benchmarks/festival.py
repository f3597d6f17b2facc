"""Speech with exact times: Debian's festival says sentences and writes down when each phone ends.

apt-get install festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile
from tqdm import tqdm

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.files import Record
from nemo_speechlm.units.phones import SILENCE

VOICES = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")

ARPABET = {"pau": SILENCE, "ax": "AH", "axr": "ER", "el": "L", "em": "M", "en": "N", "dx": "T", "hv": "HH", "nx": "N"}
"""Festival's phones that are not CMUdict's in lower case."""

_SAY = """
(voice_{voice})
(define (say name text)
  (let ((utt (utt.synth (eval (list 'Utterance 'Text text)))) (fp (fopen (string-append name ".phones") "w")))
    (utt.save.wave utt (string-append name ".wav") 'riff)
    (utt.save.segs utt (string-append name ".segs"))
    (mapcar
      (lambda (word)
        (mapcar
          (lambda (syl) (mapcar (lambda (s) (format fp "%s " (item.name s))) (item.daughters syl)))
          (item.daughters word))
        (format fp "\\n"))
      (utt.relation.items utt 'SylStructure))
    (fclose fp)))
"""


def synthesize(sentences: Sequence[str], folder: Path) -> list[Record]:
    """Say the sentences, the voices taking turns, into ``folder``; what is there already is kept.

    Returns:
        Records of ``folder/manifest.json``: ``segments`` are festival's [phone, end in seconds], ``pronunciations``
        its phones of each word. Sentences of which festival makes other words (numbers, say) are left out.
    """
    if shutil.which("festival") is None:
        sys.exit("no festival here; " + str(__doc__).splitlines()[2].strip())
    manifest = folder / "manifest.json"
    if manifest.exists():
        return [json.loads(line) for line in manifest.read_text().splitlines()]
    folder.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for number, voice in enumerate(tqdm(VOICES, desc="festival", unit="voice")):
        mine = list(enumerate(sentences))[number :: len(VOICES)]
        script = _SAY.format(voice=voice)
        script += "".join(f'(say "{folder / f"{n:05}"}" "{sentence}")\n' for n, sentence in mine)
        (folder / "say.scm").write_text(script)
        subprocess.run(["festival", "-b", str(folder / "say.scm")], check=True, stdout=subprocess.DEVNULL)
        records += [record for n, sentence in mine if (record := _record(folder, f"{n:05}", sentence, voice))]
    records.sort(key=lambda record: record["audio_filepath"])
    write_manifest(manifest, records)
    return records


def _record(folder: Path, name: str, sentence: str, voice: str) -> Record | None:
    pronunciations = [line.split() for line in (folder / f"{name}.phones").read_text().splitlines() if line.strip()]
    rows = map(str.split, (folder / f"{name}.segs").read_text().splitlines())
    segments = [[parts[2], float(parts[0])] for parts in rows if len(parts) == 3]
    if len(pronunciations) != len(sentence.split()):
        return None
    said = [phone for phone, _ in segments if phone != "pau"]
    if said != [phone for phones in pronunciations for phone in phones]:
        return None
    return {
        "audio_filepath": f"{name}.wav",
        "duration": soundfile.info(folder / f"{name}.wav").duration,
        "speaker": voice,
        "text": sentence,
        "segments": segments,
        "pronunciations": [" ".join(phones) for phones in pronunciations],
    }

"""A small synthetic corpus: sentences of a grammar, spoken by many espeak-ng voices in small noisy rooms.

Only the audio comes from the synthesizer. What was said is known to the manifests with a ``text``; phones and their
times are not used, so that the path from here on is that of real speech.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from nemo_speechlm.checks import check_number
from nemo_speechlm.data.corpora.demo.espeak import Voice, espeak
from nemo_speechlm.data.corpora.demo.grammar import ENGLISH, Grammar, sentences
from nemo_speechlm.data.corpora.demo.grammar_ru import RUSSIAN
from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import Record, atomic_write

SAMPLE_RATE = 16000

# Variants and accents that a recognizer trained on people understands; no variant is in both lists.
TRAIN_VARIANTS = "m1 m3 m6 m7 f1 f2 adam mike2 Reed grandpa announcer Diogo klatt3 croak caleb Hugo".split()
HELD_OUT_VARIANTS = "m5 f5 edward michel benjamin victor".split()


class Speech(NamedTuple):
    """How a language is spoken in the demo.

    Attributes:
        grammar: of its sentences.
        accents: voices of espeak-ng, to which the variants above are added; one that stands twice is drawn as often.
    """

    grammar: Grammar
    accents: tuple[str, ...]


LANGUAGES = {
    "en": Speech(ENGLISH, ("en-us",) * 9 + ("en-gb-x-gbclan",)),
    "ru": Speech(RUSSIAN, ("ru",)),
}


@dataclass(frozen=True)
class DemoAmounts:
    """Sizes of the demo's corpus: minutes of audio, lines of text."""

    train_minutes: float = 4.5
    untranscribed_minutes: float = 27.0
    valid_minutes: float = 3.0
    test_minutes: float = 4.0
    sentences: int = 20000
    vocabulary_share: float = 1.0

    def __post_init__(self):
        for key, value in vars(self).items():
            check_number(key, value, above=0, most=1 if key == "vocabulary_share" else None)


class DemoCorpus(NamedTuple):
    """Where the parts of the demo's corpus are."""

    train: Path
    untranscribed: Path
    valid: Path
    test: Path
    text: Path


def make_demo_corpus(
    folder: str | Path, seed: int = 0, amounts: DemoAmounts | None = None, language: str = "en"
) -> DemoCorpus:
    """Write the demo's corpus: four manifests beside their audio (16 kHz FLAC), and a text file.

    ``valid.json`` and ``test.json`` have voices that are not heard in ``train.json`` and ``untranscribed.json``; the
    latter has no ``text``. No sentence is in two parts, so none of those spoken is a line of ``text.txt``. The same
    seed makes the same corpus. Manifests and text that are there are removed first: they are of other audio.

    Raises:
        SpeechLMError: if the extra ``languages`` is not installed, or the demo does not speak the language.
    """
    folder, amounts = Path(folder), amounts or DemoAmounts()
    if language not in LANGUAGES:
        raise SpeechLMError(
            f"the demo speaks {' and '.join(LANGUAGES)}, not {language!r}; any language: corpus=folder"
        )
    speech = LANGUAGES[language]
    lines = sentences(seed, amounts.vocabulary_share, grammar=speech.grammar)
    train, held_out = (
        _voices(variants, count, seed + offset, speech.accents)
        for variants, count, offset in ((TRAIN_VARIANTS, 48, 0), (HELD_OUT_VARIANTS, 24, 1))
    )
    corpus = DemoCorpus._make([*(folder / f"{name}.json" for name in DemoCorpus._fields[:4]), folder / "text.txt"])
    plan = (
        (corpus.train, amounts.train_minutes, train, True),
        (corpus.untranscribed, amounts.untranscribed_minutes, train, False),
        (corpus.valid, amounts.valid_minutes, held_out[::2], True),
        (corpus.test, amounts.test_minutes, held_out[1::2], True),
    )
    espeak()  # raises if it is not installed
    for path in (corpus.text, *corpus[:4]):
        path.unlink(missing_ok=True)
    with tqdm(total=round(sum(minutes for _, minutes, _, _ in plan)), desc="speaking", unit="min") as bar:
        for part, (manifest, minutes, voices, transcribed) in enumerate(plan):
            rng = np.random.default_rng([seed, part])
            write_manifest(manifest, _speak(manifest, minutes, voices, transcribed, lines, rng, bar))
    with atomic_write(corpus.text) as file:
        file.writelines(line + "\n" for line in islice(lines, amounts.sentences))
    return corpus


def _voices(variants: list[str], count: int, seed: int, accents: tuple[str, ...]) -> list[Voice]:
    """Speakers: a variant with an accent, a speaking rate, a pitch and a liveliness of its own."""
    rng = np.random.default_rng(seed)
    return [
        Voice(
            f"{rng.choice(accents)}+{variants[number % len(variants)]}",
            rate=int(rng.integers(125, 171)),
            pitch=int(rng.integers(40, 61)),
            range=int(rng.integers(30, 71)),
        )
        for number in range(count)
    ]


def _speak(
    manifest: Path,
    minutes: float,
    voices: list[Voice],
    transcribed: bool,
    lines: Iterator[str],
    rng: np.random.Generator,
    bar: tqdm,
) -> Iterator[Record]:
    audio_folder = manifest.with_suffix("")
    audio_folder.mkdir(parents=True, exist_ok=True)
    for stale in audio_folder.glob("[0-9]*.flac"):
        stale.unlink()
    seconds = 0.0
    number = 0
    while seconds < 60 * minutes:
        text, voice = next(lines), voices[rng.integers(len(voices))]
        spoken = np.pad(espeak().speak(text, voice, seed=number), _pauses(rng))
        audio = in_a_room(soxr.resample(spoken, espeak().sample_rate, SAMPLE_RATE), rng)
        path = audio_folder / f"{number:05d}.flac"
        soundfile.write(path, audio, SAMPLE_RATE, subtype="PCM_16")
        duration = len(audio) / SAMPLE_RATE
        record: Record = {"audio_filepath": f"{audio_folder.name}/{path.name}", "duration": round(duration, 4)}
        record |= {"text": text} if transcribed else {}
        yield record | {"speaker": f"{voice.name} rate {voice.rate} pitch {voice.pitch}"}
        before, seconds, number = seconds, seconds + duration, number + 1
        bar.update(int(seconds / 60) - int(before / 60))


def _pauses(rng: np.random.Generator) -> tuple[int, int]:
    """Samples of silence before and after an utterance: espeak-ng begins and ends with a word, people don't."""
    before, after = rng.uniform(0.1, 0.4, size=2) * espeak().sample_rate
    return int(before), int(after)


def in_a_room(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Place clean speech (S,) at 16 kHz in a small room, before a microphone, in some noise, at some level.

    Reverberation of 0.05 to 0.25 s, noise 20 to 40 dB below the speech, a spectral tilt, a peak of -14 to -2 dB.
    Returns (S,) float32.
    """
    seconds = rng.uniform(0.05, 0.25)
    times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    echo = rng.standard_normal(len(times)) * 10.0 ** (-3.0 * times / seconds) * rng.uniform(0.005, 0.03)
    echo[0] = 1.0
    size = 1 << (len(speech) + len(echo)).bit_length()
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    tilt = np.maximum(frequencies / 1000, 0.1) ** rng.uniform(-0.25, 0.25)
    wet = np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(echo, size) * tilt, size)[: len(speech)]
    colour = np.maximum(frequencies, 50.0) ** -rng.uniform(0.0, 0.8)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * colour, size)[: len(speech)]
    noise *= np.sqrt(np.mean(wet**2) / np.mean(noise**2)) * 10 ** (-rng.uniform(20, 40) / 20)
    audio = wet + noise
    return (audio * (10 ** (-rng.uniform(2, 14) / 20) / np.abs(audio).max())).astype(np.float32)

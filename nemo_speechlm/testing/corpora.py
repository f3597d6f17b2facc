"""Tiny manifests with audio, units and text, made in a folder."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from omegaconf import OmegaConf

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.text.language import Language
from nemo_speechlm.files import Record
from nemo_speechlm.units.inventory import DurationModel, UnitInventory

LETTERS = "abdeiklnost"
"""What the tiny corpus is spelled with; each letter but the space is pronounced as the unit of its capital."""


class TinyCorpus(NamedTuple):
    """Where :func:`tiny_corpus` wrote what.

    Attributes:
        units: ``units.json``.
        speech: speech manifest with ``units``, ``unit_durations`` and ``text``.
        text: text manifest with ``units`` and no durations.
    """

    units: Path
    speech: Path
    text: Path


def tiny_inventory(frame_rate: float = 100) -> UnitInventory:
    """Twelve phoneme units: silence and one for each of ``LETTERS``, with duration statistics.

    >>> len(tiny_inventory())
    12
    """
    symbols = ("SIL", *LETTERS.upper())
    scale = frame_rate / 100
    durations = {symbol: DurationModel(7 * scale, 3 * scale) for symbol in symbols}
    durations["SIL"] = DurationModel(14 * scale, 7 * scale)
    return UnitInventory("phoneme", "en", frame_rate, symbols, "SIL", durations)


def russian() -> Language:
    """Russian as ``conf/language/ru.yaml`` has it."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / "language" / "ru.yaml"))
    return Language.of(values)  # type: ignore[arg-type]


def tiny_labels() -> list[str]:
    """The characters of the tiny corpus: the space and ``LETTERS``."""
    return [" ", *LETTERS]


def tiny_corpus(
    folder: str | Path,
    n_speech: int = 8,
    n_text: int = 16,
    seed: int = 0,
    sample_rate: int = 16000,
    frame_rate: float = 100,
) -> TinyCorpus:
    """Write a corpus in which each unit is a tone of its own pitch in a little noise.

    Utterances last one to three seconds. Speech and text are drawn independently, so they are unpaired.
    """
    folder = Path(folder)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    inventory = tiny_inventory(frame_rate)
    corpus = TinyCorpus(folder / "units.json", folder / "speech.json", folder / "text.json")
    inventory.save(corpus.units)
    write_manifest(
        corpus.speech,
        [_utterance(folder, i, inventory, sample_rate, rng) for i in range(n_speech)],
    )
    write_manifest(corpus.text, [_sentence(rng) for _ in range(n_text)])
    return corpus


def tiny_hidden_corpus(folder: str | Path, n_speech: int = 8, n_text: int = 16, seed: int = 0) -> TinyCorpus:
    """As :func:`tiny_corpus`, with hidden units at 50 frames a second; text has ``unit_durations``, as if spoken."""
    corpus = tiny_corpus(folder, n_speech, n_text, seed, frame_rate=50)
    phonemes = UnitInventory.load(corpus.units)
    hidden = tiny_hidden_inventory(len(phonemes))
    rng = np.random.default_rng(seed)
    for path in (corpus.speech, corpus.text):
        records = [record for _, record in read_manifest(path, ["units"])]
        for record in records:
            ids = phonemes.encode(record["units"])
            record["units"] = hidden.decode(ids)
            record.setdefault("unit_durations", rng.integers(2, 6, len(ids)).tolist())
        write_manifest(path, records)
    hidden.save(corpus.units)
    return corpus


def _sentence(rng: np.random.Generator) -> Record:
    words = ["".join(rng.choice(list(LETTERS), size=rng.integers(1, 6))) for _ in range(rng.integers(2, 6))]
    units = ["SIL"]
    for word in words:
        units += list(word.upper())
        if rng.random() < 0.25:
            units.append("SIL")
    if units[-1] != "SIL":
        units.append("SIL")
    return {"text": " ".join(words), "units": units}


def _utterance(
    folder: Path,
    number: int,
    inventory: UnitInventory,
    sample_rate: int,
    rng: np.random.Generator,
) -> Record:
    record = _sentence(rng)
    durations = []
    for symbol in record["units"]:
        mean, std = inventory.durations[symbol]
        durations.append(max(2, round(rng.normal(mean, std))))
    frames = np.repeat(inventory.encode(record["units"]), durations)
    num_samples = round(len(frames) * sample_rate / inventory.frame_rate)
    owner = np.minimum(
        (np.arange(num_samples) * inventory.frame_rate / sample_rate).astype(int),
        len(frames) - 1,
    )
    pitch = np.where(frames == 0, 0.0, 200.0 * 1.25**frames)[owner]
    audio = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / sample_rate) + 0.01 * rng.standard_normal(num_samples)
    path = Path("audio") / f"{number:04d}.wav"
    soundfile.write(folder / path, audio.astype(np.float32), sample_rate)
    return {
        "audio_filepath": str(path),
        "duration": num_samples / sample_rate,
        "text": record["text"],
        "units": record["units"],
        "unit_durations": durations,
    }


def tiny_hidden_inventory(size: int = 6) -> UnitInventory:
    """Hidden units ``0`` to ``size - 1`` at 50 frames a second."""
    return UnitInventory("hidden", "en", 50, tuple(map(str, range(size))))


class TinyPairs(NamedTuple):
    """Where :func:`tiny_paired_corpus` wrote what.

    Attributes:
        phones: ``units.json`` of the phones, at 100 frames a second.
        units: ``units.json`` of the hidden units, at 50.
        phone_manifest: phones as ``units`` with ``unit_durations``.
        hidden_manifest: hidden units of the same utterances.
    """

    phones: Path
    units: Path
    phone_manifest: Path
    hidden_manifest: Path


def tiny_paired_corpus(folder: str | Path, size: int = 24, seed: int = 0, speakers: int = 2) -> TinyPairs:
    """Write manifests of utterances, without audio, whose hidden units follow from their phones.

    Unit ``p % 3`` sounds in the first half of phone p and ``3 + p % 3`` in the second. Each phone lasts as long as its
    kind does: 4, 6 or 8 frames of 10 ms, silences 10.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    phones, units = tiny_inventory(), tiny_hidden_inventory()
    names = ("phones.json", "hidden_units.json", "phones_manifest.json", "hidden_manifest.json")
    pairs = TinyPairs(*(folder / name for name in names))
    phones.save(pairs.phones)
    units.save(pairs.units)
    spoken: list[Record] = []
    hidden: list[Record] = []
    for number in range(size):
        sentence = _sentence(rng)
        ids = phones.encode(sentence["units"])
        durations = [10 if phone == 0 else 4 + 2 * (phone % 3) for phone in ids]
        frames = [unit for phone, length in zip(ids, durations, strict=True) for unit in _halves(phone, length // 2)]
        runs = np.flatnonzero(np.diff(frames, prepend=-1))
        common = {
            "audio_filepath": f"{number:04d}.wav",
            "duration": sum(durations) / 100,
            "speaker": f"s{number % speakers}",
            "text": sentence["text"],
        }
        spoken.append({**common, "units": sentence["units"], "unit_durations": durations})
        lengths = np.diff(runs, append=len(frames)).tolist()
        hidden.append({**common, "units": [str(frames[run]) for run in runs], "unit_durations": lengths})
    write_manifest(pairs.phone_manifest, spoken)
    write_manifest(pairs.hidden_manifest, hidden)
    return pairs


def _halves(phone: int, frames: int) -> list[int]:
    first = frames - frames // 2
    return [phone % 3] * first + [3 + phone % 3] * (frames - first)

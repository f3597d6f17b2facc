"""Tiny corpora in the layouts in which they are published."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000


def audio(path: Path, seconds: float, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.zeros((round(RATE * seconds), channels)).squeeze()
    soundfile.write(path, samples, RATE, format={".mp3": "MP3"}.get(path.suffix))
    return path


def lines(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def librispeech(root: Path) -> Path:
    """Two parts: dev-clean with two speakers, test-other with one."""
    home = root / "LibriSpeech"
    for chapter, texts in {
        "dev-clean/84/121123": ["GO DO YOU HEAR", "BUT IN LESS THAN FIVE MINUTES"],
        "dev-clean/174/50561": ["FORGOTTEN TOO THE NAME OF GILLIAN"],
        "test-other/367/130732": ["LOBSTERS AND LOBSTERS"],
    }.items():
        speaker, number = Path(chapter).parts[1:]
        names = [f"{speaker}-{number}-{i:04d}" for i in range(len(texts))]
        for i, name in enumerate(names):
            audio(home / chapter / f"{name}.flac", 1 + i / 2)
        rows = [f"{name} {text}" for name, text in zip(names, texts, strict=True)]
        lines(home / chapter / f"{speaker}-{number}.trans.txt", *rows)
    lines(home / "README.TXT", "LibriSpeech")
    return home


def libri_light(root: Path) -> Path:
    """One part, with a recording of 12 s in which two stretches have voice, and one without a voice."""
    book = root / "small" / "100" / "sea_fairies_0812_librivox_64kb_mp3"
    for name, seconds, voice in (("01_baum", 12, [[0.4, 3.2], [4.0, 9.0]]), ("02_baum", 2, [])):
        audio(book / f"{name}.flac", seconds)
        about = {"speaker": "100", "book_meta": {"id": "812"}, "snr": 8.1, "voice_activity": voice}
        (book / f"{name}.json").write_text(json.dumps(about))
    return root


CV_HEADER = (
    "client_id path sentence_id sentence sentence_domain up_votes down_votes age gender accents variant locale segment"
)


def common_voice(root: Path) -> Path:
    """A release with one language, of which train has two clips and dev one."""
    home = root / "cv-corpus-17.0-2024-03-15" / "fr"
    header = CV_HEADER.split()
    for part, rows in {
        "train": [("a1", "common_voice_fr_1.mp3", "Il a dit « non »."), ("b2", "common_voice_fr_2.mp3", "Deux  mots")],
        "dev": [("c3", "common_voice_fr_3.mp3", "Trois")],
    }.items():
        table = [header]
        for client, path, sentence in rows:
            audio(home / "clips" / path, 1)
            known = {"client_id": client, "path": path, "sentence": sentence, "up_votes": "2", "locale": "fr"}
            table.append([known.get(name, "") for name in header])
        lines(home / f"{part}.tsv", *("\t".join(row) for row in table))
    return home


def kaldi(root: Path, segments: bool = True) -> Path:
    """A data folder beside a folder of audio, as in egs/*/s5: data/train/wav.scp names wav/r1.wav."""
    home = root / "data" / "train"
    for name, seconds in (("r1", 5), ("r2", 2)):
        audio(root / "wav" / f"{name}.wav", seconds)
    lines(home / "wav.scp", "r1 wav/r1.wav", f"r2 flac -c -d -s {root / 'wav' / 'r2.wav'} |")
    names = ["s1-r1-0", "s1-r1-1", "s2-r2-0"] if segments else ["r1", "r2"]
    if segments:
        lines(home / "segments", "s1-r1-0 r1 0.5 2.25", "s1-r1-1 r1 3 -1", "s2-r2-0 r2 0 2.0")
    lines(home / "text", *(f"{name} Text {chr(97 + i)}" for i, name in enumerate(names)))
    lines(home / "utt2spk", *(f"{name} s{i % 2}" for i, name in enumerate(names)))
    return home

"""What goes wrong with a line of a speech manifest, or with its audio, as one of a million lines does."""

import json
import os
from pathlib import Path

import numpy as np
import soundfile

AUDIO = {
    "truncated": "less audio than its duration|not audio that can be read",
    "zero bytes": "the file is empty",
    "vanished": "no such audio file",
    "text": "not audio that can be read",
    "nan": "not numbers",
    "inf": "not numbers",
    "huge": "samples as large as",
    "fifo": "is not a regular file",
}
"""Faults of audio files, and what is said of them."""

LINES = {
    "longer units": "units last",
    "unit out of range": "is id 99",
    "no units": "no key 'units'",
    "not JSON": "not JSON",
}
"""Faults of lines."""

FAULTS = {**AUDIO, **LINES}


def spoil(manifest: Path, number: int, fault: str) -> None:
    """Bring a fault into line ``number``, counted from 1, or its audio."""
    lines = manifest.read_text().splitlines()
    record = json.loads(lines[number - 1])
    path = manifest.parent / record["audio_filepath"]
    if fault in ("nan", "inf", "huge"):
        samples, rate = soundfile.read(path, dtype="float32")
        if fault == "huge":
            samples = samples * np.float32(1e38)
        else:
            samples[100] = np.float32(fault)
        soundfile.write(path, samples, rate, subtype="FLOAT")
    elif fault in AUDIO:
        content = path.read_bytes()
        path.unlink()
        if fault == "fifo":
            os.mkfifo(path)
        elif fault != "vanished":
            new = {"truncated": content[: len(content) // 2], "zero bytes": b"", "text": b"not audio " * 50}
            path.write_bytes(new[fault])
    elif fault == "no units":
        del record["units"]
    elif fault == "longer units":
        record["unit_durations"][-1] += 50
    elif fault == "unit out of range":
        record["units"] = [99] * len(record["units"])
    lines[number - 1] = lines[number - 1][:40] if fault == "not JSON" else json.dumps(record)
    manifest.write_text("\n".join(lines) + "\n")

"""The speech tokenizer's job: what it says of lines that get no units, and what it keeps of others."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_speechlm.errors import InputError
from nemo_speechlm.tokenizers.imported.tokenizer import ImportedTokenizing
from nemo_speechlm.tokenizers.jobs.speech import make_speech_units_work


def run(folder: Path, ctm: str, **record):
    """The job's result for a second of silence, by alignments of these lines."""
    (folder / "a.ctm").write_text(ctm)
    soundfile.write(folder / "u1.wav", np.zeros(16000, dtype=np.float32), 16000)
    work = make_speech_units_work(folder / "m.json", folder / "o.json", ImportedTokenizing(str(folder / "a.ctm")))
    (result,) = work([(5, json.dumps({"audio_filepath": "u1.wav", **record}))])
    return result


@pytest.mark.parametrize(
    ("ctm", "message"),
    [
        ("u1 1 0.0 x S_S\n", "{0}/m.json:5: {0}/a.ctm:1: expected seconds, found 'x'"),
        ("u1 1 0.0 1.0 Q_B\n", "{0}/m.json:5: {0}/a.ctm: 'Q_B' at 0.000 s is not a phone"),
    ],
)
def test_errors_name_the_line_and_the_alignment(tmp_path, ctm, message):
    found = run(tmp_path, ctm)
    assert isinstance(found, InputError)
    assert str(found).startswith(message.format(tmp_path))


def test_what_belongs_to_other_units_is_not_kept(tmp_path):
    before = {"units": "X", "unit_durations": [9], "alignment_score": -50.0, "decoded_text": "x", "confidence": 0.3}
    before |= {"text": "s", "id": 7}
    found = run(tmp_path, "u1 1 0.0 1.0 S_S\n", **before)
    assert found == {
        "audio_filepath": "u1.wav", "duration": 1.0, "text": "s", "id": 7, "units": "S_S", "unit_durations": [100],
    }  # fmt: skip

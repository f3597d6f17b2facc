import numpy as np
import pytest
import soundfile

from nemo_speechlm.data.audio.utterances import audio_part, read_utterance
from nemo_speechlm.errors import InputError


def test_a_duration_without_an_offset_is_that_of_the_file(tmp_path):
    """To NeMo it would mean the first second; where it matters what was said, nobody guesses."""
    soundfile.write(tmp_path / "a.wav", np.zeros(4 * 16000), 16000)
    for read in (audio_part, read_utterance):
        with pytest.raises(InputError, match=r"m.json:3: duration is 1 s, but the audio of .* lasts 4.000 s"):
            read({"audio_filepath": "a.wav", "duration": 1.0}, tmp_path / "m.json", 3)
    assert audio_part({"audio_filepath": "a.wav", "duration": 3.9}, tmp_path / "m.json", 3)[1:] == (0.0, 4.0)
    assert audio_part({"audio_filepath": "a.wav", "duration": 1.0, "offset": 0}, tmp_path / "m.json", 3)[1:] == (0, 1)

"""What the page shows of a recording is what the other commands and the models themselves say of it."""

import base64
import json

import numpy as np
import pytest
import soundfile
import torch

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.pretraining.batch import SpeechBatch
from nemo_speechlm.errors import InputError
from nemo_speechlm.inference.units import UnitFinder
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.serving.turns import TimeUp
from nemo_speechlm.testing.corpora import tiny_labels
from nemo_speechlm.tokenizers.frame_classifier import FrameClassifierTokenizing
from nemo_speechlm.tokenizers.speech import SpeechInput
from tests.functional.commands import run_example
from tests.serving.conftest import make_listener


@pytest.mark.parametrize("options", [["model=ctc.nemo"], ["model=pretrained.nemo", "decoding=beam", "beam_size=4"]])
def test_text_and_times_are_those_of_transcribe(models, recording, options, monkeypatch, capsys):
    monkeypatch.chdir(models)
    assert run_example("transcribe.py", *options, f"input={recording}", "device=cpu", "format=json") == 0
    expected = json.loads(capsys.readouterr().out)
    found = make_listener(*(option.replace("model=", f"model={models}/") for option in options)).listen(recording)
    assert found["text"]
    assert {key: found[key] for key in ("duration", "text", "segments")} == {
        key: expected[key] for key in ("duration", "text", "segments")
    }
    picture = found["spectrogram"]
    assert picture["columns"] * picture["column_seconds"] == pytest.approx(found["duration"], abs=0.011)
    assert len(base64.b64decode(picture["levels"])) == picture["bands"] * picture["columns"]


def test_a_translation_is_that_of_translate(models, recording, capsys):
    options = [f"model={models / 'st.nemo'}", "beam_size=2"]
    assert run_example("translate.py", *options, f"input={recording}", "device=cpu", "format=json") == 0
    expected = json.loads(capsys.readouterr().out)
    listener = make_listener(*options)
    found = listener.listen(recording)
    assert found["text"] == expected["text"] != ""
    assert found["segments"] == expected["segments"]
    assert (listener.about()["task"], found["units"]) == ("translation", None)


def frames_of(units, rate, duration):
    """The symbol in the middle of each frame."""
    middles = (np.arange(int(duration * rate)) + 0.5) / rate
    return [next(u["symbol"] for u in units if u["start"] <= t < u["end"]) for t in middles]


def test_units_of_a_pretrained_model_are_what_it_predicts_of_unmasked_frames(models, recording):
    found = make_listener(f"model={models / 'pretrained.nemo'}").listen(recording)
    model = SpeechLMModel.restore_from(str(models / "pretrained.nemo"), map_location="cpu").eval()
    samples = torch.from_numpy(read_audio(recording))[None]
    length = torch.tensor([samples.shape[1]])
    units = torch.zeros(1, 2 * int(samples.shape[1] / 160), dtype=torch.long)
    batch = SpeechBatch(samples, length, units, torch.tensor([units.shape[1]]))
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    with torch.no_grad():
        frames = model.forward(samples, length)[0].shape[2]
        logits = model.forward_speech(
            batch, mask=nothing.expand(1, frames), swap=nothing.expand(1, frames)
        ).logits[1]  # fmt: skip
    expected = model.inventory.decode(logits[0].argmax(-1).tolist())
    assert len(set(expected)) > 1
    shown = frames_of(found["units"], model.encoder.frame_rate, found["duration"])
    assert shown[: len(expected)] == expected
    assert found["units"][0]["start"] == 0
    assert found["units"][-1]["end"] == found["duration"]


def test_units_of_a_frame_classifier_are_those_that_it_tokenizes_with(models, recording):
    found = make_listener(f"model={models / 'ctc.nemo'}", f"units={models / 'frames.nemo'}").listen(recording)
    tokenizer = FrameClassifierTokenizing(str(models / "frames.nemo"), device="cpu").make()
    (expected,) = tokenizer.tokenize_batch([SpeechInput(read_audio(recording), None, {})])
    assert [unit["symbol"] for unit in found["units"]] == list(expected.units)
    ends = np.cumsum(expected.durations) / 100
    assert [unit["end"] for unit in found["units"][:-1]] == pytest.approx(ends[:-1])


def test_a_recognizer_alone_shows_no_units(models, recording):
    listener = make_listener(f"model={models / 'ctc.nemo'}")
    assert listener.listen(recording)["units"] is None
    assert listener.about() == {
        "name": "ctc.nemo", "kind": "SpeechLMCTCModel", "task": "recognition", "sample_rate": 16000,
        "max_duration": 120, "units": None,
    }  # fmt: skip


def test_units_go_on_from_segment_to_segment(models, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "long.wav", rng.uniform(-0.3, 0.3, 5 * 16000), 16000)
    listener = make_listener(f"model={models / 'pretrained.nemo'}", "max_segment=2", "min_segment=1")
    found = listener.listen(tmp_path / "long.wav")
    assert len(found["segments"]) >= 3
    for one, other in zip(found["units"], found["units"][1:], strict=False):
        assert one["end"] == pytest.approx(other["start"], abs=0.002)
    assert found["units"][-1]["end"] == pytest.approx(5)


def test_recordings_that_are_not_taken(models, tmp_path):
    listener = make_listener(f"model={models / 'ctc.nemo'}", "max_duration=1")
    soundfile.write(tmp_path / "long.wav", np.zeros(32000), 16000)
    with pytest.raises(InputError, match=r"the recording has 2 s, at most 1 s are taken \(max_duration\)"):
        listener.listen(tmp_path / "long.wav")
    soundfile.write(tmp_path / "one.wav", np.zeros(1), 192000)
    with pytest.raises(InputError, match="no samples"):
        listener.listen(tmp_path / "one.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(InputError, match="no samples"):
        listener.listen(tmp_path / "empty.wav")


def test_a_header_that_lies_about_the_length_is_found_out(models, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(16000 * 9), 16000)
    listener = make_listener(f"model={models / 'ctc.nemo'}", "max_duration=1")
    honest = listener.listen.__globals__["audio_info"]
    monkeypatch.setitem(listener.listen.__globals__, "audio_info", lambda path: honest(path)._replace(frames=100))
    with pytest.raises(InputError, match="the recording has longer"):
        listener.listen(tmp_path / "a.wav")


def test_silence_has_no_text_and_each_segment_asks_whether_to_go_on(models, tmp_path):
    listener = make_listener(f"model={models / 'ctc.nemo'}", "max_segment=2", "min_segment=1")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    found = listener.listen(tmp_path / "silent.wav")
    assert (found["text"], found["segments"]) == ("", [])
    soundfile.write(tmp_path / "loud.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 8 * 16000), 16000)
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 3:
            raise TimeUp("enough")

    with pytest.raises(TimeUp):
        listener.listen(tmp_path / "loud.wav", check)


def test_what_has_no_units_is_named(models):
    with pytest.raises(InputError, match=r"ctc\.nemo: is a SpeechLMCTCModel, which predicts no units"):
        make_listener(f"model={models / 'ctc.nemo'}", f"units={models / 'ctc.nemo'}")
    with pytest.raises(InputError, match=r"frames\.nemo: is a FrameClassifierModel, expected a recognition model"):
        make_listener(f"model={models / 'frames.nemo'}")


def test_a_unit_finder_takes_less_than_a_frame(models):
    from nemo_speechlm.data.audio.stream import Segment

    finder = UnitFinder(SpeechLMModel.restore_from(str(models / "pretrained.nemo"), map_location="cpu").eval())
    found = finder(Segment(3.0, np.ones(10, np.float32)))
    assert found[0].start == 3.0
    assert found[-1].end == pytest.approx(3.0, abs=0.001)
    assert set(tiny_labels()[1:]) | {"sil"} >= {unit.symbol.lower() for unit in found}

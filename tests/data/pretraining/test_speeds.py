"""Speech at another speed: the units stay on their audio."""

from itertools import islice

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.config import read_config
from nemo_speechlm.data.pretraining.pairs_reader import PairsReader
from nemo_speechlm.data.pretraining.speech_reader import SpeechReader, stretched
from nemo_speechlm.data.pretraining.streams import PairStream, SpeechStream
from nemo_speechlm.data.pretraining.transcripts_reader import TranscriptsReader
from nemo_speechlm.data.pretraining.utterance_audio import audio_and_units, audio_of
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.data.text.characters import CharacterEncoder
from nemo_speechlm.errors import InputError
from nemo_speechlm.units.inventory import UnitInventory

INVENTORY = UnitInventory("hidden", "en", 50.0, ("low", "high"))
BORDER, END = 2.0, 3.0  # seconds
SPEEDS = [0.8, 1.0, 1.25]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """An utterance that lies 0.5 s into its file: a tone of 200 Hz, then one of 800 Hz."""
    folder = tmp_path_factory.mktemp("tones")
    seconds = np.arange(round(END * 16000)) / 16000
    tone = 0.4 * np.sin(2 * np.pi * np.where(seconds < BORDER, 200, 800) * seconds)
    soundfile.write(folder / "tones.wav", np.concatenate([np.zeros(8000), tone]), 16000, subtype="FLOAT")
    record = {"audio_filepath": "tones.wav", "offset": 0.5, "duration": END, "text": "ab"}
    write_manifest(folder / "tones.json", [{**record, "units": [0, 1], "unit_durations": [100, 50]}])
    return str(folder / "tones.json")


def pitch(audio):
    """The loudest frequency, Hz."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio)), 1 << 16))
    return spectrum.argmax() * 16000 / (1 << 16)


@given(st.lists(st.integers(1, 40), min_size=1), st.floats(0.5, 2.0))
def test_durations_are_stretched_with_the_audio(durations, speed):
    durations = np.array(durations, dtype=np.int32)
    found = stretched(durations, speed)
    assert (found >= 0).all()
    assert np.abs(np.cumsum(found) - np.cumsum(durations) / speed).max() <= 0.5


@pytest.mark.parametrize("speed", SPEEDS)
def test_units_stay_on_their_audio(manifest, speed):
    cut = next(iter(SpeechReader([manifest], INVENTORY, speeds=[speed])))
    audio, units = audio_and_units(cut, INVENTORY, 16000)
    assert len(units) == pytest.approx(END / speed * 50, abs=1)
    assert len(audio) == pytest.approx(END / speed * 16000, abs=320)
    border = int((units == 0).sum()) * 320
    assert border == pytest.approx(BORDER / speed * 16000, abs=320)
    assert pitch(audio[: border - 800]) == pytest.approx(200 * speed, abs=2)
    assert pitch(audio[border + 800 :]) == pytest.approx(800 * speed, abs=2)


def test_a_crop_of_faster_speech_has_the_units_of_its_audio(manifest):
    cuts = list(islice(SpeechReader([manifest], INVENTORY, speeds=SPEEDS, truncate_duration=0.6), 40))
    assert {cut.custom.get("speed", 1.0) for cut in cuts} == set(SPEEDS)
    kinds = set()
    for cut in cuts:
        audio, units = audio_and_units(cut, INVENTORY, 16000)
        assert (len(units), len(audio)) == (30, 9600)
        if len(set(units)) == 1:
            expected = (200, 800)[units[0]] * cut.custom.get("speed", 1.0)
            assert pitch(audio) == pytest.approx(expected, abs=4)
            kinds.add(int(units[0]))
    assert kinds == {0, 1}


def test_each_pass_draws_a_speed_that_the_seed_alone_decides(manifest):
    def drawn(seed):
        reader = SpeechReader([manifest], INVENTORY, Order(seed=seed), speeds=SPEEDS)
        return [cut.duration for cut in islice(reader, 30)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert {round(duration * 100) for duration in drawn(1)} == {240, 300, 375}


def test_durations_limit_the_audio_as_it_is_in_the_file(manifest):
    reader = SpeechReader([manifest], INVENTORY, speeds=[0.8], min_duration=2.9, max_duration=3.1)
    assert next(iter(reader)).duration == pytest.approx(END / 0.8)


def test_what_is_too_long_when_slowed_down_keeps_its_speed(manifest):
    """The survey has counted it: it must not go missing from some passes."""
    cuts = list(islice(SpeechReader([manifest], INVENTORY, speeds=[0.8], longest=3.2), 4))
    assert len(cuts) == 4
    assert {cut.duration for cut in cuts} == {3.0}


def test_transcribed_speech_and_pairs_have_speeds_too(manifest):
    plain = read_audio(manifest.replace("json", "wav"), 16000, 0.5, END)
    for reader in (
        TranscriptsReader([manifest], speeds=[1.25]),
        PairsReader([manifest], CharacterEncoder(["a", "b"]), speeds=[1.25]),
    ):
        cut = next(iter(reader))
        audio = audio_of(cut, 16000)
        assert cut.duration == pytest.approx(END / 1.25)
        assert len(audio) == pytest.approx(len(plain) / 1.25, abs=1)
        assert pitch(audio[:30000]) == pytest.approx(250, abs=2)


def test_a_pair_whose_phones_need_the_time_keeps_its_speed(manifest):
    phones = CharacterEncoder(["a", "b"])
    reader = PairsReader([manifest], CharacterEncoder(["a", "b"]), speeds=[1.25], phone_encoder=phones, phone_rate=0.7)
    assert next(iter(reader)).duration == END


@pytest.mark.parametrize("speeds", [1.1, [], "1.1", [0.0], [3.0], [True]])
def test_wrong_speeds(manifest, speeds):
    with pytest.raises(InputError, match="data config: speeds"):
        SpeechReader([manifest], INVENTORY, speeds=speeds)


def test_data_that_others_read_have_no_speeds(manifest):
    part = {"manifest_filepath": [[manifest, 0.5]], "batch_size": 1, "speeds": [0.9]}
    with pytest.raises(InputError, match=r"speech\.speeds cannot be used, NeMo reads these data"):
        read_config({"speech": part}, [SpeechStream(INVENTORY)], training=True)
    part = {"manifest_filepath": manifest, "batch_size": 1, "speeds": [0.9]}
    with pytest.raises(InputError, match="speeds needs data"):
        build_recognition_dataloader(part, ["a", "b"])


def test_nemos_perturbation_is_refused_where_nemo_does_not_read(manifest):
    """It made every third utterance shorter than its manifest says: an error, or bad examples, of sound audio."""
    config = {"manifest_filepath": str(manifest), "batch_size": 1, "perturb_speed": True, "endless": True}
    with pytest.raises(InputError, match=r"perturb_speed is for data that NeMo reads; the option speeds"):
        build_recognition_dataloader(config, list("ab "))
    part = {"manifest_filepath": str(manifest), "batch_size": 1, "perturb_speed": True}
    with pytest.raises(InputError, match="the option speeds"):
        read_config({"pairs": part}, [PairStream(labels=list("ab "))], training=True)


def test_where_a_crop_begins_does_not_tell_its_speed(manifest):
    cuts = list(islice(SpeechReader([manifest], INVENTORY, speeds=[0.8, 1.25], truncate_duration=0.6), 80))
    for speed in (0.8, 1.25):
        own = [cut for cut in cuts if cut.custom["speed"] == speed]
        places = [(cut.start - cut.custom["origin"]) / (END / speed - 0.6) for cut in own]
        assert min(places) < 0.25
        assert max(places) > 0.75


def test_a_pair_may_have_a_phone_in_each_frame(manifest):
    both = CharacterEncoder(["a", "b"])
    (cut,) = islice(PairsReader([manifest], both, phone_encoder=both, phone_rate=2 / END), 1)
    assert len(cut.custom["phones"]) == 2
    with pytest.raises(InputError, match=r"tones\.json:1: 2 phones in 3 s, which are 2 frames"):
        PairsReader([manifest], both, phone_encoder=both, phone_rate=1.9 / END)

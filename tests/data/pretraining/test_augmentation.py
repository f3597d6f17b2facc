import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from lhotse import Recording, RecordingSet, lazy

from nemo_speechlm.data.pretraining.utterance_audio import name_of
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus
from tests.data.pretraining.test_loader import build, equal, first, make_config

ECHO = 800
"""Samples, 0.05 s, after which the room answers, half as loud."""


@pytest.fixture(autouse=True, scope="module")
def small_buffer():
    """The one noise would be looked up two thousand times, to shuffle it, whenever a loader begins."""
    shuffle = lazy.streaming_shuffle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "streaming_shuffle", lambda data, bufsize, rng: shuffle(data, min(bufsize, 20), rng))
        yield


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A corpus, noise as a NeMo manifest with relative names, and a room with one echo as Lhotse has it."""
    folder = tmp_path_factory.mktemp("sounds")
    noise = np.random.default_rng(0).standard_normal(5 * 16000)
    soundfile.write(folder / "noise.wav", 0.1 * noise, 16000)
    (folder / "noise.json").write_text(json.dumps({"audio_filepath": "noise.wav", "duration": 5.0}) + "\n")
    room = np.zeros(1600)
    room[0], room[ECHO] = 0.8, 0.4
    soundfile.write(folder / "room.wav", room, 16000)
    RecordingSet.from_recordings([Recording.from_file(folder / "room.wav")]).to_file(folder / "rooms.jsonl.gz")
    corpus = tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=24, n_text=60)
    return SimpleNamespace(folder=folder, corpus=corpus)


def with_options(sounds, **options):
    config = make_config(sounds.corpus)
    for key, value in options.items():
        config.speech[key] = value.replace("DIR", str(sounds.folder)) if isinstance(value, str) else value
    return config


def pairs_of_rows(sounds, **options):
    """Each utterance of some batches, without and with what the options add."""
    plain = first(build(make_config(sounds.corpus)), 9)
    changed = first(build(with_options(sounds, **options)), 9)
    for before, after in zip(plain, changed, strict=True):
        assert before.speech.audio.shape == after.speech.audio.shape
        assert before.speech.ids == after.speech.ids
        assert (before.speech.units == after.speech.units).all()  # the units stay on their audio
        for row, length in enumerate(before.speech.audio_lengths):
            yield before.speech.audio[row, :length].numpy(), after.speech.audio[row, :length].numpy()


def test_noise_has_the_ratio_that_was_asked_for(sounds):
    ratios = []
    for clean, noisy in pairs_of_rows(sounds, noise_path="DIR/noise.json", noise_snr=[9.0, 11.0], noise_mix_prob=1.0):
        added = noisy - clean
        ratios.append(10 * np.log10(np.mean(clean**2) / np.mean(added**2)))
    assert min(ratios) > 8.5
    assert max(ratios) < 11.5
    assert max(ratios) - min(ratios) > 0.5


def test_noise_comes_to_the_share_that_was_asked_for(sounds):
    changed = [
        not np.array_equal(clean, noisy)
        for clean, noisy in pairs_of_rows(sounds, noise_path="DIR/noise.json", noise_mix_prob=0.5)
    ]
    assert 0.2 < np.mean(changed) < 0.8


def test_audio_with_noise_that_nemo_reads_has_the_name_of_its_file(sounds):
    cut = Recording.from_file(sounds.folder / "noise.wav").to_cut()
    noisy = cut.mix(cut, snr=10).truncate(duration=1.0)  # as NeMo does it, with new ids
    assert name_of(cut) == cut.id
    assert name_of(noisy) == cut.recording.id


def test_a_room_adds_its_echo(sounds):
    for dry, wet in pairs_of_rows(sounds, rir_enabled=True, rir_prob=1.0, rir_path="DIR/rooms.jsonl.gz"):
        expected = dry + 0.5 * np.concatenate([np.zeros(ECHO), dry])[: len(dry)]
        scale = np.dot(wet, expected) / np.dot(expected, expected)  # the loudness stays as it was
        assert np.abs(wet - scale * expected).max() < 2e-3 * np.abs(wet).max()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_hears_the_same_noise(sounds, workers):
    config = with_options(
        sounds, noise_path="DIR/noise.json", rir_enabled=True, rir_prob=0.5, rir_path="DIR/rooms.jsonl.gz"
    )
    whole = first(build(config), 9)
    config.num_workers = workers
    loader = build(config)
    assert equal(first(loader, 5), whole[:5])
    resumed = build(config)
    resumed.load_state_dict(loader.state_dict())
    assert equal(first(resumed, 4), whole[5:])
    for rank in (0, 1):
        assert equal(first(build(config, global_rank=rank, world_size=2), 4), whole[rank:8:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_path": "DIR/none.json"}, "none.json: data config: speech.noise_path: no such file"),
        ({"noise_path": "DIR/empty.json"}, "empty.json: the manifest is empty"),
        ({"noise_path": "DIR/gone.json"}, "gone.json:1: no audio file"),
        ({"noise_path": "DIR/gone.jsonl"}, "gone.jsonl: data config: speech.noise_path: a manifest with"),
        ({"noise_path": "DIR/noise.json", "noise_mix_prob": 1.5}, "speech.noise_mix_prob is 1.5"),
        ({"noise_path": "DIR/noise.json", "noise_snr": 10}, "speech.noise_snr is 10, expected the least"),
        ({"noise_path": "DIR/noise.json", "noise_snr": [20, 10]}, "expected the smaller number first"),
        ({"rir_path": "DIR/rooms.jsonl.gz"}, "speech.rir_path has no effect without speech.rir_enabled=true"),
        ({"rir_enabled": True, "rir_path": "DIR/none.json"}, "speech.rir_path: no such file"),
        ({"rir_enabled": True, "rir_path": "DIR/noise.json"}, "noise.json: is not a Lhotse manifest of recordings"),
    ],
)
def test_wrong_options_are_named(sounds, options, message):
    (sounds.folder / "empty.json").write_text("")
    for name in ("gone.json", "gone.jsonl"):
        (sounds.folder / name).write_text('{"audio_filepath": "gone.wav", "duration": 1.0}\n')
    with pytest.raises(InputError) as error:
        build(with_options(sounds, **options))
    assert message in str(error.value)


def test_rooms_are_drawn_where_torchaudio_is_there_alone(sounds, monkeypatch):
    monkeypatch.setattr("nemo_speechlm.data.pretraining.augmentation.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs torchaudio"):
        build(with_options(sounds, rir_enabled=True))


def test_text_has_no_noise(sounds):
    config = make_config(sounds.corpus)
    config.text.noise_path = str(sounds.folder / "noise.json")
    with pytest.raises(InputError, match="noise_path cannot be used, text has no audio"):
        build(config)

import io
import os
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import AudioSource, CutSet, MonoCut, Recording
from nemo.collections.common.data.lhotse.nemo_adapters import LazyNeMoTarredIterator

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.pretraining.batch import PAD_UNIT
from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.dataset import OneStream, PretrainDataset
from nemo_speechlm.data.pretraining.speech_reader import SpeechReader
from nemo_speechlm.data.pretraining.streams import SpeechStream, UnitTextStream
from nemo_speechlm.data.pretraining.text_reader import TextUnitsReader
from nemo_speechlm.data.pretraining.utterance_audio import audio_and_units
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_inventory, tiny_labels
from nemo_speechlm.units.inventory import UnitInventory

FRAMES = 200
DATA = Path(os.environ.get("NEMO_SPEECHLM_DATA", Path(__file__).parents[4] / "shared" / "data"))
FILE_ORDER = Order(shuffle=False, finite=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=6, n_text=10)


def audio_and_units_of(inventory, cut):
    return audio_and_units(cut, inventory, 16000)


def counting_inventory(frame_rate):
    return UnitInventory("hidden", "en", frame_rate, tuple(map(str, range(FRAMES))))


def counting_utterance(folder, frame_rate, offset=0.0, units=FRAMES, name="count"):
    """A manifest of one utterance whose unit k lasts one frame, in which each sample says k."""
    num_samples = round(FRAMES * 16000 / frame_rate)
    audio = np.floor(np.arange(num_samples) * frame_rate / 16000 + 1e-9) / 256
    audio = np.concatenate([np.full(round(offset * 16000), -1.0), audio])
    soundfile.write(folder / f"{name}.wav", audio, 16000, subtype="FLOAT")
    record = {"audio_filepath": f"{name}.wav", "duration": FRAMES / frame_rate, "offset": offset}
    write_manifest(folder / f"{name}.json", [{**record, "units": list(range(units)), "unit_durations": [1] * units}])
    return str(folder / f"{name}.json")


def assert_labels_fit(audio, units, frame_rate):
    per_frame = 16000 / frame_rate
    assert len(units) - 1 < (len(audio) - 0.5) / per_frame <= len(units)
    middles = ((np.arange(len(units)) + 0.5) * per_frame).astype(int)
    inside = middles < len(audio)
    assert np.abs(audio[middles[inside]] * 256 - units[inside]).max() < 0.01


@settings(max_examples=60, deadline=None)
@given(
    frame_rate=st.sampled_from([100.0, 50.0, 75.0, 62.5]),
    offset=st.sampled_from([0.0, 0.1234, 1.0]),
    span=st.tuples(st.floats(0, 1), st.floats(0.02, 1)),
)
def test_any_crop_keeps_units_on_their_audio(tmp_path_factory, frame_rate, offset, span):
    """Lhotse's truncate at arbitrary times, as NeMo does it to its own data types."""
    manifest = counting_utterance(tmp_path_factory.mktemp("count"), frame_rate, offset)
    inventory = counting_inventory(frame_rate)
    (cut,) = SpeechReader([manifest], inventory, FILE_ORDER)
    start = span[0] * cut.duration * 0.9
    duration = max(span[1] * (cut.duration - start), 2 / frame_rate)
    part = cut.truncate(offset=start, duration=duration)
    audio, units = audio_and_units_of(inventory, part)
    assert_labels_fit(audio, units, frame_rate)
    assert units[0] == round((part.start - offset) * frame_rate)
    assert abs(len(audio) / 16000 - duration) <= 1 / frame_rate + 1e-3


@pytest.mark.parametrize("frame_rate", [100.0, 50.0])
def test_random_crops_keep_units_on_their_audio(tmp_path, frame_rate):
    manifest = counting_utterance(tmp_path, frame_rate, offset=0.3)
    inventory = counting_inventory(frame_rate)
    cuts = list(islice(SpeechReader([manifest], inventory, truncate_duration=0.5), 20))
    batch = SpeechStream(inventory).collate(cuts)
    assert batch.unit_lengths.tolist() == [0.5 * frame_rate] * 20
    assert batch.audio_lengths.tolist() == [8000] * 20
    assert len(set(batch.units[:, 0].tolist())) > 10
    for audio, units in zip(batch.audio.numpy(), batch.units.numpy(), strict=True):
        assert_labels_fit(audio, units, frame_rate)


@pytest.mark.parametrize("units", [FRAMES - 2, FRAMES - 1])
def test_units_that_end_before_the_audio_shorten_it(tmp_path, units):
    manifest = counting_utterance(tmp_path, 100.0, units=units)
    inventory = counting_inventory(100.0)
    audio, frames = audio_and_units_of(inventory, next(iter(SpeechReader([manifest], inventory))))
    assert (len(frames), len(audio)) == (units, units * 160)
    assert_labels_fit(audio, frames, 100.0)


def test_batches_are_padded_copies_of_the_manifests(corpus):
    inventory = tiny_inventory()
    cuts = list(SpeechReader([str(corpus.speech)], inventory, FILE_ORDER))
    sentences = list(TextUnitsReader([str(corpus.text)], inventory, tiny_labels(), 50, FILE_ORDER))
    streams = [SpeechStream(inventory), UnitTextStream(inventory, tiny_labels(), 50)]
    speech, text, *_ = PretrainDataset(streams)[{"speech": CutSet(cuts), "text": sentences}]
    assert speech.ids[:2] == (f"{corpus.speech}:1", f"{corpus.speech}:2")
    assert text.ids == tuple(sentence.id for sentence in sentences)
    for i, (_, record) in enumerate(read_manifest(corpus.speech)):
        expected, _ = soundfile.read(corpus.speech.parent / record["audio_filepath"], dtype="float32")
        samples, frames = speech.audio_lengths[i], speech.unit_lengths[i]
        assert samples == len(expected)
        assert (speech.audio[i, :samples].numpy() == expected).all()
        assert (speech.audio[i, samples:] == 0).all()
        symbols = [s for s, d in zip(record["units"], record["unit_durations"], strict=True) for _ in range(d)]
        assert inventory.decode(speech.units[i, :frames].tolist()) == symbols
        assert (speech.units[i, frames:] == PAD_UNIT).all()
    for i, sentence in enumerate(sentences):
        frames, characters = text.unit_lengths[i], text.target_lengths[i]
        assert text.units[i, :frames].tolist() == np.repeat(sentence.units, sentence.durations).tolist()
        assert (text.units[i, frames:] == PAD_UNIT).all()
        assert text.targets[i, :characters].tolist() == sentence.targets.tolist()
        assert (text.targets[i, characters:] == 0).all()
    assert (speech.audio.dtype, speech.units.dtype, text.targets.dtype) == (torch.float32, torch.int64, torch.int64)


def test_a_missing_part_is_none(corpus):
    cut = next(iter(SpeechReader([str(corpus.speech)], tiny_inventory())))
    batch = OneStream("speech", PretrainDataset([SpeechStream(tiny_inventory())]))[[cut]]
    assert batch.text is None
    assert batch.speech.audio.shape[0] == 1


@pytest.mark.parametrize(
    ("suffix", "rate", "channels"),
    [
        ("wav", 44100, 2),
        ("flac", 22050, 1),
        ("ogg", 44100, 1),
        ("mp3", 44100, 2),
        ("opus", 48000, 1),
        ("wav", 8000, 1),
    ],
)
def test_any_format_and_rate(tmp_path, suffix, rate, channels):
    """A tone keeps its pitch and its place; what differs between channels is averaged away."""
    seconds = np.arange(2 * rate) / rate
    tone = 0.4 * np.sin(2 * np.pi * 440 * seconds) * (seconds >= 1.0)
    other = 0.2 * np.sin(2 * np.pi * 1000 * seconds)
    audio = np.stack([tone + other, tone - other], 1) if channels == 2 else tone[:, None]
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    soundfile.write(tmp_path / f"tone.{suffix}", audio, rate, **options)
    record = {"audio_filepath": f"tone.{suffix}", "duration": 2.0, "units": "A B", "unit_durations": [100, 100]}
    write_manifest(tmp_path / "tone.json", [record])
    (cut,) = SpeechReader([str(tmp_path / "tone.json")], tiny_inventory(), FILE_ORDER)
    whole, units = audio_and_units_of(tiny_inventory(), cut)
    assert abs(len(whole) - 32000) <= 160
    assert len(units) == 200
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    steady = slice(17600, 30400)
    assert np.abs(whole[steady] - expected[steady]).max() < 0.04
    assert np.abs(whole[1600:14400]).max() < 0.02
    crop, _ = audio_and_units_of(tiny_inventory(), cut.truncate(offset=1.2, duration=0.5))
    assert np.abs(crop[800:-800] - expected[20000:26400]).max() < 0.04


def test_audio_that_cannot_be_read_names_the_manifest(corpus, tmp_path):
    write = tmp_path / "bad.json"
    record = {"audio_filepath": "bad.wav", "duration": 1.0, "units": "A", "unit_durations": [100]}
    write_manifest(write, [record])
    (tmp_path / "bad.wav").write_bytes(b"this is not audio")
    (cut,) = SpeechReader([str(write)], tiny_inventory(), FILE_ORDER)
    with pytest.raises(InputError, match=r"bad.json:1: .*bad.wav"):
        SpeechStream(tiny_inventory()).collate([cut])
    soundfile.write(tmp_path / "bad.wav", np.zeros(8000), 16000)
    with pytest.raises(InputError, match=r"bad.json:1: .*0.50 s less audio than its duration"):
        SpeechStream(tiny_inventory()).collate([cut])


def tarred(folder, corpus, **changes):
    """NeMo's tarred form of the corpus's speech, made by hand."""
    records = []
    with tarfile.open(folder / "audio_0.tar", "w") as tar:
        for _, record in read_manifest(corpus.speech):
            name = Path(record["audio_filepath"]).name
            tar.add(corpus.speech.parent / record["audio_filepath"], name)
            records.append({**record, "audio_filepath": name, "shard_id": 0, **changes})
    write_manifest(folder / "manifest.json", records)
    return LazyNeMoTarredIterator(str(folder / "manifest.json"), str(folder / "audio_0.tar"))


def test_nemos_tarred_data_give_the_same_batches(corpus, tmp_path):
    stream = SpeechStream(tiny_inventory())
    ours = stream.collate(SpeechReader([str(corpus.speech)], tiny_inventory(), FILE_ORDER))
    theirs = stream.collate(tarred(tmp_path, corpus))
    assert all((a == b).all() for a, b in zip(ours[:4], theirs[:4], strict=True))


def test_our_reader_of_tar_files_gives_the_same_batches(corpus, tmp_path):
    stream = SpeechStream(tiny_inventory())
    tarred(tmp_path, corpus)
    options = {"order": FILE_ORDER, "tarred_audio_filepaths": str(tmp_path / "audio_0.tar")}
    ours = stream.collate(SpeechReader([str(tmp_path / "manifest.json")], tiny_inventory(), **options))
    plain = stream.collate(SpeechReader([str(corpus.speech)], tiny_inventory(), FILE_ORDER))
    assert all((a == b).all() for a, b in zip(ours[:4], plain[:4], strict=True))


def test_tars_of_two_sets_in_one_manifest(corpus, tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        tarred(tmp_path / name, corpus)
    tars = [str(tmp_path / name / "audio_0.tar") for name in ("x", "y")]
    with pytest.raises(InputError, match=r"manifest.json: .* several files of the shards \[0\], .* for each tar"):
        SpeechReader([str(tmp_path / "x" / "manifest.json")], tiny_inventory(), tarred_audio_filepaths=tars)


def test_nemos_tarred_data_of_another_rate_are_resampled_once(corpus, tmp_path):
    stream = SpeechStream(tiny_inventory(), sample_rate=8000)
    ours = stream.collate(SpeechReader([str(corpus.speech)], tiny_inventory(), FILE_ORDER, sample_rate=8000))
    theirs = stream.collate([cut.resample(8000) for cut in tarred(tmp_path, corpus)])
    assert all((a == b).all() for a, b in zip(ours[:4], theirs[:4], strict=True))


def test_tarred_units_of_another_frame_rate_are_an_error(corpus, tmp_path):
    cuts = tarred(tmp_path, corpus, units="A B", unit_durations=[200, 100])
    with pytest.raises(InputError, match=r"units of .* last 3.00 s .* made at another frame rate"):
        SpeechStream(tiny_inventory()).collate(cuts)


def test_augmentations_of_lhotse_are_applied(corpus):
    """Noise of one channel, and transforms of the recording, on audio that our reader would resample."""
    cut = next(iter(SpeechReader([str(corpus.speech)], tiny_inventory(), FILE_ORDER)))
    clean, units = audio_and_units_of(tiny_inventory(), cut)
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, len(clean))).astype(np.float32)
    content = io.BytesIO()
    soundfile.write(content, noise[0], 16000, format="WAV", subtype="FLOAT")
    source = AudioSource("memory", [0], content.getvalue())
    recording = Recording("noise", [source], 16000, len(clean), len(clean) / 16000)
    noisy = cut.mix(MonoCut("noise", 0, recording.duration, 0, recording=recording))
    mixed, same_units = audio_and_units_of(tiny_inventory(), noisy)
    assert (same_units == units).all()
    assert np.abs(mixed - clean - noise[0]).max() < 1e-6
    louder, _ = audio_and_units_of(tiny_inventory(), cut.perturb_volume(2.0))
    assert np.abs(louder - 2 * clean).max() < 1e-6


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real data not found at {DATA}; set NEMO_SPEECHLM_DATA")
@pytest.mark.parametrize(
    "manifest", ["librispeech/train.json", "librispeech/unlabeled.json", "fillets_cs_en/train.json"]
)
def test_real_audio(tmp_path, manifest):
    """MP3, FLAC, Opus and Ogg of 16, 22.05 and 44.1 kHz, whole and cropped."""
    records = [record for _, record in read_manifest(DATA / manifest)]
    picked = []
    for record in records[:: len(records) // 8]:
        frames = round(record["duration"] * 100)
        path = str(DATA / Path(manifest).parent / record["audio_filepath"])
        picked.append({**record, "audio_filepath": path, "units": ["A"], "unit_durations": [frames]})
    write_manifest(tmp_path / "real.json", picked)
    stream = SpeechStream(tiny_inventory())
    wholes = stream.collate(SpeechReader([str(tmp_path / "real.json")], tiny_inventory(), FILE_ORDER))
    for length, record in zip(wholes.audio_lengths.tolist(), picked, strict=True):
        assert abs(length / 16000 - record["duration"]) < 0.011
    assert (wholes.audio.square().mean(1).sqrt() > 1e-3).all()
    cuts, again = (
        list(SpeechReader([str(tmp_path / "real.json")], tiny_inventory(), order, truncate_duration=1.0))
        for order in (Order(shuffle=False, finite=True, seed=2), Order(shuffle=False, finite=True, seed=1))
    )
    assert [c.start for c in cuts] != [c.start for c in again]
    for crop, length, cut, whole in zip(*stream.collate(cuts)[:2], cuts, wholes.audio, strict=True):
        start = round(cut.start * 16000)
        middle = slice(1600, int(length) - 1600)  # resampling and lossy codecs need a little of what is around
        pair = torch.stack([crop[: int(length)], whole[start : start + int(length)]])[:, middle]
        assert torch.corrcoef(pair)[0, 1] > 0.95  # at 22.05 kHz a frame begins between two samples

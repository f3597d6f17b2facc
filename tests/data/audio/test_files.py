import os
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_speechlm.data.audio.files import audio_info, read_audio, to_int16
from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.errors import InputError

FORMATS = [("wav", "PCM_16"), ("flac", "PCM_16"), ("mp3", "MPEG_LAYER_III"), ("ogg", "VORBIS"), ("opus", "OPUS")]


def tone(rate, seconds=1.0, frequency=440.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def write(path, samples, rate, subtype=None):
    soundfile.write(path, samples, rate, subtype=subtype, format="OGG" if path.suffix == ".opus" else None)
    return path


def loudest(samples, rate=16000):
    return np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples)


@pytest.mark.parametrize(("suffix", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_any_format_and_rate_gives_the_same_speech(tmp_path, suffix, subtype, rate):
    if suffix == "opus" and rate in (22050, 44100):
        pytest.skip("not a rate of Opus")
    path = write(tmp_path / f"a.{suffix}", tone(rate), rate, subtype)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 16000) < 1000  # lossy formats may be padded
    assert abs(audio_info(path).duration - len(samples) / 16000) < 1e-3
    assert audio_info(path, decode=True) == audio_info(path)
    assert abs(loudest(samples) - 440) < 3
    assert abs(np.abs(samples[4000:12000]).max() - 0.5) < 0.05


def test_channels(tmp_path):
    left, right = tone(16000, frequency=300), tone(16000, frequency=900)
    path = write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 16000)
    assert audio_info(path)[:2] == (16000, 2)
    np.testing.assert_allclose(read_audio(path, channel=0), left, atol=1e-4)
    np.testing.assert_allclose(read_audio(path, channel=1), right, atol=1e-4)
    np.testing.assert_allclose(read_audio(path), (left + right) / 2, atol=1e-4)
    for channel in (2, -1, "left"):
        with pytest.raises(InputError, match="no channel"):
            read_audio(path, channel=channel)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_offset_and_duration_cut_the_same_samples(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", tone(16000, 2.0) * np.linspace(0, 1, 32000), 16000)
    whole, part = read_audio(path), read_audio(path, offset=0.5, duration=0.25)
    np.testing.assert_allclose(part, whole[8000:12000], atol=1e-3)
    assert len(read_audio(path, offset=0.5)) == len(whole) - 8000
    with pytest.raises(InputError, match=r"offset 9.* is beyond its end"):
        read_audio(path, offset=9)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such audio file"), (b"", "the file is empty"), (b"not audio " * 50, "not audio that can be read")],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    for read in (read_audio, audio_info):
        with pytest.raises(InputError, match=message) as error:
            read(path)
        assert str(path) in str(error.value)


def test_a_name_that_is_not_utf_8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    write(tmp_path / "a.wav", np.zeros(100), 16000).rename(path)
    for read in (read_audio, audio_info):
        with pytest.raises(InputError, match=r"caf\\xe9.wav: its name is not UTF-8"):
            read(path)


def test_no_samples_or_not_numbers(tmp_path):
    empty = write(tmp_path / "empty.wav", np.zeros(0), 16000)
    for read in (read_audio, audio_info):
        with pytest.raises(InputError, match="no samples"):
            read(empty)
    nan = write(tmp_path / "nan.wav", np.full(100, np.nan), 16000, "FLOAT")
    with pytest.raises(InputError, match="not numbers"):
        read_audio(nan)


def test_int16_clips():
    assert to_int16(np.array([0, 0.5, 1.5, -2.0], dtype=np.float32)).tolist() == [0, 16384, 32767, -32768]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"duration": 1.0}, 16000),
        ({}, 16000),
        ({"duration": 1.04}, 16000),
        ({"duration": 1.2}, "duration is 1.2 s, but the audio of .* lasts 1.000 s"),
        ({"duration": 0.5}, "a part of a file needs an offset"),
        ({"duration": 0.5, "offset": 0}, 8000),
        ({"duration": 0.5, "offset": 0.25}, 8000),
        ({"duration": 0.9, "offset": 0.25}, "lasts 0.750 s"),
        ({"duration": "long"}, "duration is 'long', expected seconds"),
        ({"offset": -1}, "offset is -1, expected seconds"),
        ({"audio_filepath": "b.wav"}, "b.wav: no such audio file"),
    ],
)
def test_utterances_of_a_manifest(tmp_path, keys, expected):
    write(tmp_path / "a.wav", tone(8000), 8000)
    manifest, record = tmp_path / "m.json", {"audio_filepath": "a.wav", **keys}
    if isinstance(expected, int):
        assert len(read_utterance(record, manifest, 7)) == expected
    else:
        with pytest.raises(InputError, match=expected) as error:
            read_utterance(record, manifest, 7)
        assert str(error.value).startswith(f"{manifest}:7: ")


@pytest.mark.parametrize("suffix", ["mp3", "flac", "wav", "ogg"])
def test_content_is_read_as_the_file_is(tmp_path, monkeypatch, suffix):
    """That of an MP3 through a file in memory, where the system has them."""
    made = []
    memory = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda name: made.append(name) or memory(name))
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, 0.3 * np.sin(np.arange(40000) / 20), 16000)
    expected = read_audio(path)
    content = path.read_bytes()
    assert np.array_equal(read_audio(BytesIO(content)), expected)
    assert len(made) == (suffix == "mp3")
    with tarfile.open(tmp_path / "audio.tar", "w") as tar:
        tar.add(path, path.name)
    assert np.array_equal(read_audio(TarAudio(str(tmp_path / "audio.tar"), path.name)), expected)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        read_audio(BytesIO(content), offset=0.5, duration=0.5)
        for wrong in (b"", b"no audio"):
            with pytest.raises(InputError, match="audio"):
                read_audio(BytesIO(wrong))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    monkeypatch.delattr(os, "memfd_create")
    assert np.array_equal(read_audio(BytesIO(content)), expected)

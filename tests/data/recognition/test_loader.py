import json

import numpy as np
import pytest
import soundfile
import torch

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels
from nemo_speechlm.training.step_guards import batch_ids


def build(manifest, **options):
    config = {"manifest_filepath": str(manifest), "batch_duration": 8, "shuffle": False, "shard_seed": 0, **options}
    return build_recognition_dataloader(config, tiny_labels())


def records_of(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def test_batches(tmp_path):
    corpus = tiny_corpus(tmp_path)
    records = records_of(corpus.speech)
    seen = []
    for audio, audio_lengths, ids, id_lengths in build(corpus.speech):
        assert audio.shape == (len(audio_lengths), int(audio_lengths.max()))
        assert ids.shape[1] == int(id_lengths.max())
        for row, length in zip(ids.tolist(), id_lengths.tolist(), strict=True):
            seen.append("".join(tiny_labels()[i] for i in row[:length]))
    assert seen == [" ".join(record["text"].split()) for record in records]


def test_audio_of_any_rate_and_channels_and_format(tmp_path):
    time = np.arange(44100) / 44100
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    lines = []
    for name, rate in (("a.wav", 16000), ("b.flac", 22050), ("c.mp3", 44100), ("d.ogg", 8000)):
        samples = np.interp(np.arange(rate) / rate, time, tone)
        soundfile.write(tmp_path / name, np.stack([samples, samples], axis=1), rate)
        lines.append({"audio_filepath": name, "duration": 1.0, "text": "a"})
    manifest = tmp_path / "m.json"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    ((audio, lengths, _, _),) = list(build(manifest))
    assert (lengths - 16000).abs().max() <= 16000 * 0.12  # MP3 and Vorbis may pad
    spectrum = torch.fft.rfft(audio[:, 2000:14000]).abs()
    assert ((spectrum.argmax(1) * 16000 / 12000 - 440).abs() < 2).all()


@pytest.mark.parametrize("endless", [True, False])
def test_a_channel_that_is_selected_is_read(tmp_path, endless):
    """0 too, which is no missing value."""
    soundfile.write(tmp_path / "a.wav", np.tile([0.5, -0.1], (16000, 1)), 16000, subtype="FLOAT")
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"audio_filepath": "a.wav", "duration": 1.0, "text": "a", "side": 1}) + "\n")
    heard = [
        float(next(iter(build(manifest, endless=endless, channel_selector=selector)))[0][0, 0])
        for selector in (None, 0, 1, "side")
    ]
    assert heard == pytest.approx([0.2, 0.5, -0.1, -0.1], abs=1e-4)


def test_endless_passes_differ_and_hold_everything(tmp_path):
    corpus = tiny_corpus(tmp_path)
    loader = build(corpus.speech, shuffle=True, endless=True, batch_duration=None, batch_size=1)
    batches = iter(loader)
    passes = [[tuple(next(batches)[2][0].tolist()) for _ in range(8)] for _ in range(3)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert len({tuple(p) for p in passes}) > 1
    resumed = build(corpus.speech, shuffle=True, endless=True, batch_duration=None, batch_size=1)
    resumed.load_state_dict({"step": 8, "positions": {"transcripts": (0, 8)}})
    again = iter(resumed)
    assert [tuple(next(again)[2][0].tolist()) for _ in range(8)] == passes[1]


def test_a_byte_order_mark_is_refused_where_nemo_reads(tmp_path):
    corpus = tiny_corpus(tmp_path, n_speech=2)
    corpus.speech.write_text(corpus.speech.read_text(), encoding="utf-8-sig")
    assert next(iter(build(corpus.speech, endless=True)))
    with pytest.raises(InputError, match="begins with a byte order mark"):
        build(corpus.speech)


def test_leaves_the_random_state_alone(tmp_path):
    corpus = tiny_corpus(tmp_path, n_speech=2)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    build(corpus.speech)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_audio_is_named(tmp_path, workers):
    corpus = tiny_corpus(tmp_path, n_speech=2)
    broken = tmp_path / records_of(corpus.speech)[1]["audio_filepath"]
    samples, rate = soundfile.read(broken)
    soundfile.write(broken, np.where(samples > 0.2, np.nan, samples), rate, subtype="FLOAT")
    with pytest.raises(InputError, match=f"{broken.name}: audio has samples that are not numbers") as error:
        list(build(corpus.speech, num_workers=workers))
    assert "Traceback" not in str(error.value)


def test_what_is_not_audio_is_named(tmp_path):
    corpus = tiny_corpus(tmp_path, n_speech=2)
    (tmp_path / "audio" / "0001.wav").write_bytes(b"not audio" * 100)
    with pytest.raises(InputError, match=r"0001\.wav' failed"):
        list(build(corpus.speech))


def test_config_without_data():
    with pytest.raises(InputError, match="no manifest_filepath"):
        build_recognition_dataloader({"batch_size": 1}, tiny_labels())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_know_their_audio(tmp_path, num_workers):
    corpus = tiny_corpus(tmp_path)
    found = [example for batch in build(corpus.speech, num_workers=num_workers) for example in batch_ids(batch)]
    files = [corpus.speech.parent / record["audio_filepath"] for _, record in read_manifest(corpus.speech)]
    assert sorted(found) == sorted(map(str, files))


@pytest.mark.parametrize("key", ["truncate_duration", "cut_into_windows_duration"])
def test_audio_is_not_cut_below_its_transcript(tmp_path, key):
    corpus = tiny_corpus(tmp_path)
    with pytest.raises(InputError, match=rf"{key} cannot be used, texts would no longer fit"):
        build(corpus.speech, endless=True, **{key: 1.0})

"""Shards: what is in them, that equal input makes equal files, that nothing is half there."""

import gzip
import json
import os
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from nemo.collections.common.data.lhotse.indexed_adapters import IndexedJSONLReader, create_index, create_tar_index
from nemo.collections.common.data.lhotse.nemo_adapters import LazyNeMoTarredIterator

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.audio.sources import audio_source
from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.sharding.encoding import AudioEncoding
from nemo_speechlm.data.sharding.job import Division, is_speech, make_shards
from nemo_speechlm.data.sharding.work import ShardWork
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus

FLAC = AudioEncoding()
THREES = Division(shard_size=3, seed=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=8)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def lines(folder: Path) -> list[dict]:
    return [record for path in sorted(folder.glob("manifest_*.json")) for _, record in read_manifest(path)]


def test_all_utterances_are_in_them_and_sound_the_same(corpus, tmp_path):
    made = make_shards(str(corpus.speech), tmp_path / "out", encoding=FLAC, division=THREES)
    assert str(made).splitlines()[1:] == [
        f"manifest_filepath: {tmp_path}/out/manifest__OP_0..2_CL_.json",
        f"tarred_audio_filepaths: {tmp_path}/out/audio__OP_0..2_CL_.tar",
    ]
    before = {r["text"]: r for _, r in read_manifest(corpus.speech)}
    after = {}
    for shard in range(3):
        manifest = tmp_path / "out" / f"manifest_{shard}.json"
        with tarfile.open(tmp_path / "out" / f"audio_{shard}.tar") as tar:
            names = tar.getnames()
        records = [record for _, record in read_manifest(manifest)]
        assert [r["audio_filepath"] for r in records] == names
        assert {r["shard_id"] for r in records} == {shard}
        for number, record in enumerate(records, start=1):
            original = before[record["text"]]
            audio = read_audio(audio_source(record, manifest, number).content())
            np.testing.assert_array_equal(audio, read_audio(corpus.speech.parent / original["audio_filepath"]))
            kept = {k: v for k, v in record.items() if k not in ("shard_id", "tar_span")}
            assert kept == original | {"audio_filepath": record["audio_filepath"]}
            after[record["text"]] = record
    assert after.keys() == before.keys()
    assert [r["text"] for r in lines(tmp_path / "out")] != list(before), "shuffled"


@pytest.mark.parametrize("said", [{}, {"duration": None}])
def test_a_line_without_duration_gets_one(tmp_path, said):
    soundfile.write(tmp_path / "a.wav", np.zeros(32000), 16000)
    write_manifest(tmp_path / "m.json", [{"audio_filepath": "a.wav", **said}])
    make_shards(str(tmp_path / "m.json"), tmp_path / "out", encoding=FLAC)
    assert [record["duration"] for record in lines(tmp_path / "out")] == [2.0]


def test_nemo_reads_them(corpus, tmp_path):
    make_shards(str(corpus.speech), tmp_path, encoding=FLAC, division=THREES)
    paths = [str(tmp_path / name) for name in ("manifest__OP_0..2_CL_.json", "audio__OP_0..2_CL_.tar")]
    cuts = list(LazyNeMoTarredIterator(*paths))
    assert [cut.supervisions[0].text for cut in cuts] == [r["text"] for r in lines(tmp_path)]
    assert [round(cut.duration, 2) for cut in cuts] == [r["duration"] for r in lines(tmp_path)]
    for name, create in (("manifest_1.json", create_index), ("audio_1.tar", create_tar_index)):
        create(tmp_path / name, tmp_path / "nemo.idx")
        assert (tmp_path / f"{name}.idx").read_bytes() == (tmp_path / "nemo.idx").read_bytes()
    assert IndexedJSONLReader(tmp_path / "manifest_2.json")[1] == lines(tmp_path)[2 + 3 + 1]


def test_equal_input_makes_equal_files_and_a_killed_job_goes_on(corpus, tmp_path, monkeypatch):
    make_shards(str(corpus.speech), tmp_path / "a", encoding=FLAC, division=THREES)
    expected = contents(tmp_path / "a")
    encoded, calls = AudioEncoding.encoded, []

    def killed(self, *arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return encoded(self, *arguments)

    monkeypatch.setattr(AudioEncoding, "encoded", killed)
    with pytest.raises(KeyboardInterrupt):
        make_shards(str(corpus.speech), tmp_path / "b", encoding=FLAC, division=THREES)
    first = {n for n in expected if "_0." in n}
    assert contents(tmp_path / "b") == {}, "shards have their names when all are made"
    assert set(contents(tmp_path / "b" / ".job.shards.jsonl" / "shards")) == first
    calls[:] = [None] * 5
    make_shards(str(corpus.speech), tmp_path / "b", encoding=FLAC, division=THREES)
    assert len(calls) - 5 == 6, "the first shard is not made again"
    assert contents(tmp_path / "b") == expected
    assert [path.name for path in (tmp_path / "b").iterdir() if path.is_dir()] == []
    make_shards(str(corpus.speech), tmp_path / "c", encoding=FLAC, division=Division(shard_size=3, seed=2))
    assert contents(tmp_path / "c")["manifest_0.json"] != expected["manifest_0.json"]


def test_bad_lines_are_told_or_listed(corpus, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    (tmp_path / "half.flac").write_bytes(flac(noise)[:9000])
    (tmp_path / "good.wav").write_bytes(wav(np.zeros(16000)))
    write_manifest(
        tmp_path / "m.json",
        [
            {"audio_filepath": "good.wav"},
            {"audio_filepath": "half.flac", "duration": 1},
            {"audio_filepath": "none.wav"},
            {"audio_filepath": "good.wav", "duration": 7.0},
            {"audio_filepath": "good.wav", "offset": 0.5, "duration": 0.25},
        ],
    )
    options = {"encoding": FLAC, "division": Division(shards=2, shuffle=False)}
    with pytest.raises(InputError, match=r"m\.json:2: .*half\.flac: audio "):
        make_shards(str(tmp_path / "m.json"), tmp_path / "out", **options)
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == []
    made = make_shards(str(tmp_path / "m.json"), tmp_path / "out", skip_bad=True, **options)
    assert made.report.written == 2
    bad = [record for _, record in read_manifest(tmp_path / "out" / "skipped.jsonl")]
    assert [(Path(b["file"]).name, b["line"]) for b in bad] == [("m.json", 2), ("m.json", 3), ("m.json", 4)]
    assert "no such audio file" in bad[1]["reason"]
    assert "duration is 7 s, but the audio" in bad[2]["reason"]
    assert [(r["audio_filepath"], r["duration"]) for r in lines(tmp_path / "out")] == [
        ("good-000000000.flac", 1.0),
        ("good-000000004.flac", 0.25),
    ]
    assert not list((tmp_path / "out").glob(".*"))


def flac(samples):
    file = BytesIO()
    soundfile.write(file, samples, 16000, format="FLAC")
    return file.getvalue()


def wav(samples, rate=16000):
    file = BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def test_parts_are_cut_out_and_formats_kept(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (16000, 2))
    (tmp_path / "two.wav").write_bytes(wav(samples))
    (tmp_path / "one.flac").write_bytes(flac(samples[:, 0]))
    part = {"audio_filepath": "two.wav", "offset": 0.25, "duration": 0.5}
    for encoding, record, expected in [
        (AudioEncoding(), part, ".flac"),
        (AudioEncoding("keep"), part, ".flac"),
        (AudioEncoding("keep"), {"audio_filepath": "two.wav"}, "two.wav"),
        (AudioEncoding("keep", channel=1), {"audio_filepath": "two.wav"}, ".flac"),
        (AudioEncoding(), {"audio_filepath": "one.flac"}, "one.flac"),
        (AudioEncoding(sample_rate=8000), {"audio_filepath": "one.flac"}, ".flac"),
    ]:
        found = encoding.encoded(record, tmp_path / "m.json", 1)
        if expected in ("two.wav", "one.flac"):
            assert found.content == (tmp_path / expected).read_bytes()
            assert found.suffix == Path(expected).suffix
            continue
        assert found.suffix == expected
        span = (record.get("offset", 0.0), record.get("duration"))
        rate = encoding.sample_rate or 16000
        wanted = read_audio(tmp_path / record["audio_filepath"], rate, *span, encoding.channel)
        heard = read_audio(BytesIO(found.content), rate)
        assert len(heard) == len(wanted) == round(found.duration * rate)
        assert np.abs(heard - wanted).max() <= 1 / 32768


def test_opus_is_the_same_each_time(tmp_path):
    seconds = np.arange(22050) / 22050
    (tmp_path / "a.wav").write_bytes(wav(0.3 * np.sin(2 * np.pi * 300 * seconds), 22050))
    found = [AudioEncoding("opus").encoded({"audio_filepath": "a.wav"}, tmp_path / "m", 1) for _ in range(2)]
    assert found[0] == found[1]
    with soundfile.SoundFile(BytesIO(found[0].content)) as file:
        assert (file.format, file.subtype, file.samplerate, file.frames) == ("OGG", "OPUS", 24000, 24000)
        heard = file.read()
    power = np.abs(np.fft.rfft(heard[1000:-1000]))
    assert abs(np.argmax(power) * 24000 / 22000 - 300) < 2
    assert AudioEncoding("opus").encoded({"audio_filepath": "a.opus"}, *stored(found[0], tmp_path)).content == (
        found[0].content
    )
    with pytest.raises(InputError, match="sample_rate is 22050, Opus has 8000, 12000"):
        AudioEncoding("opus", 22050)


def stored(encoded, folder):
    (folder / "a.opus").write_bytes(encoded.content)
    return folder / "m", 1


@pytest.mark.parametrize("gzipped", [False, True])
def test_text(tmp_path, gzipped):
    said = [{"text": f"größe {i}", "units": "A B"} for i in range(7)]
    (tmp_path / "a.json.gz").write_bytes(gzip.compress("".join(json.dumps(r) + "\n\n" for r in said[:3]).encode()))
    write_manifest(tmp_path / "b.json", said[3:])
    options = {"encoding": None, "division": Division(shards=3), "gzipped": gzipped}
    made = make_shards([str(tmp_path / "a.json.gz"), str(tmp_path / "b.json")], tmp_path / "out", **options)
    ending = ".json.gz" if gzipped else ".json"
    assert str(made).splitlines()[1:] == [f"manifest_filepath: {tmp_path}/out/manifest__OP_0..2_CL_{ending}"]
    found = [[r for _, r in read_manifest(tmp_path / "out" / f"manifest_{i}{ending}")] for i in range(3)]
    assert [len(each) for each in found] == [2, 2, 3]
    assert sorted((r for each in found for r in each), key=lambda r: r["text"]) == said
    if not gzipped:
        assert IndexedJSONLReader(tmp_path / "out" / "manifest_2.json")[2] == found[2][2]


def test_text_and_speech_are_told_apart_by_more_than_a_first_line(corpus, tmp_path):
    bad, text = tmp_path / "bad.json", tmp_path / "text.json"
    bad.write_text("oops\n" + corpus.speech.read_text())
    assert is_speech(str(bad))
    write_manifest(text, [{"text": "a"}] * 1000 + [{"audio_filepath": "a.wav", "text": "b"}])
    assert not is_speech(str(text))
    with pytest.raises(InputError, match=r"text\.json:1001: has audio, which the first lines"):
        make_shards(str(text), tmp_path / "out", encoding=None, division=Division(shards=2))


def test_what_is_there_is_not_lost(corpus, tmp_path):
    make_shards(str(corpus.text), tmp_path / "out", encoding=None, division=Division(shards=3))
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=r"shards\.jsonl: exists already"):
        make_shards(str(corpus.speech), tmp_path / "out", encoding=FLAC)
    (tmp_path / "out" / "shards.jsonl").unlink()
    with pytest.raises(InputError, match="has shards that no list of shards names"):
        make_shards(str(corpus.speech), tmp_path / "out", encoding=FLAC)
    assert contents(tmp_path / "out").items() <= before.items()
    make_shards(str(corpus.speech), tmp_path / "out", encoding=FLAC, division=Division(shards=2), overwrite=True)
    assert sorted(p.name for p in (tmp_path / "out").glob("manifest*json")) == ["manifest_0.json", "manifest_1.json"]
    with pytest.raises(InputError, match="lies in the output folder"):
        make_shards(str(tmp_path / "out" / "manifest_0.json"), tmp_path / "out", encoding=None, overwrite=True)


def test_older_shards_are_kept_until_the_new_ones_are_there(corpus, tmp_path, monkeypatch):
    options = {"encoding": FLAC, "overwrite": True}
    make_shards(str(corpus.speech), tmp_path / "out", division=Division(shards=4), **options)
    (tmp_path / "out" / ".partial.another").write_text("another command's")
    before = contents(tmp_path / "out")
    monkeypatch.setattr(ShardWork, "__call__", lambda self: stops_at_the_third(self))
    with pytest.raises(InputError, match="the third"):
        make_shards(str(corpus.speech), tmp_path / "out", division=THREES, **options)
    monkeypatch.undo()
    assert contents(tmp_path / "out") == before

    replace = os.replace

    def killed(source, target):
        replace(source, target)
        if Path(target) == tmp_path / "out" / "audio_1.tar":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        make_shards(str(corpus.speech), tmp_path / "out", division=THREES, **options)
    monkeypatch.undo()
    assert "shards.jsonl" not in contents(tmp_path / "out"), "older and newer ones are no set"
    make_shards(str(corpus.speech), tmp_path / "out", division=THREES, **options)
    make_shards(str(corpus.speech), tmp_path / "new", division=THREES, **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "new") | {".partial.another": b"another command's"}


def test_audio_of_the_manifest_is_not_replaced(corpus, tmp_path):
    make_shards(str(corpus.speech), tmp_path / "out", encoding=FLAC, division=THREES)
    before = contents(tmp_path / "out")
    records = [r | {"tar_filepath": f"out/audio_{r['shard_id']}.tar"} for r in lines(tmp_path / "out")]
    (tmp_path / "m.json").write_text("no JSON\n" + "".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(InputError, match=r"m\.json:2: its audio is in .*out/audio_0\.tar, in the output folder"):
        make_shards(str(tmp_path / "m.json"), tmp_path / "out", encoding=FLAC, skip_bad=True, overwrite=True)
    assert contents(tmp_path / "out") == before
    assert make_shards(str(tmp_path / "m.json"), tmp_path / "b", encoding=FLAC, skip_bad=True).report.written == 8


def test_a_job_begun_with_other_options_is_refused_or_replaced(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(ShardWork, "__call__", lambda self: stops_at_the_third(self))
    with pytest.raises(InputError, match="the third"):
        make_shards(str(corpus.text), tmp_path / "out", encoding=None, division=Division(shards=5))
    monkeypatch.undo()
    other = {"encoding": None, "division": Division(shards=2, shuffle=False)}
    with pytest.raises(InputError, match="another"):
        make_shards(str(corpus.text), tmp_path / "out", **other)
    make_shards(str(corpus.text), tmp_path / "out", overwrite=True, **other)
    assert sorted(p.name for p in (tmp_path / "out").glob("manifest*json")) == ["manifest_0.json", "manifest_1.json"]
    assert lines(tmp_path / "out") == [record for _, record in read_manifest(corpus.text)]


CALL = ShardWork.__call__


def stops_at_the_third(work):
    make = CALL(work)

    def wrapped(number, line):
        if number == 3:
            raise InputError("the third")
        return make(number, line)

    return wrapped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 0}, "shards is 0, expected a whole number of at least 1"),
        ({"shard_size": 0.5}, "shard_size is 0.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        Division(**options)


def test_more_shards_than_lines(corpus, tmp_path):
    with pytest.raises(InputError, match="shards is 99, but there are 8 lines"):
        make_shards(str(corpus.speech), tmp_path / "out", encoding=FLAC, division=Division(shards=99))

"""Each corpus from the layout in which it is published to a manifest, by the command."""

import gzip
import hashlib
import importlib.util
import json
import random
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nemo_speechlm.data.audio.utterances import read_utterance
from nemo_speechlm.data.corpora.libri_light import joined
from tests.data.corpora import tiny
from tests.functional.commands import run_example
from tests.long_forms import LONG

slow = pytest.mark.skipif(not LONG, reason="the recipe starts processes: 10 s; LONG_TESTS=1")


@pytest.fixture
def prepare(capfd, tmp_path):
    """Runs the command; returns the manifest's records (None if there is none), and what was printed."""

    def run(*arguments, status=0):
        output = tmp_path / "out" / "m.json"
        given = [f"output={output}", "workers=1", *arguments]
        ended = run_example("prepare_data.py", *given)
        printed = capfd.readouterr()
        assert ended == status, printed.err
        assert not list(output.parent.glob(".partial*.files"))
        records = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else None
        return records, printed.out + printed.err

    return run


def without_folder(records):
    return [{**record, "audio_filepath": record["audio_filepath"].rpartition("/")[2]} for record in records]


def test_librispeech(prepare, tmp_path):
    home = tiny.librispeech(tmp_path)
    records, printed = prepare("corpus=librispeech", f"source={tmp_path}", "parts=[dev-clean]")
    assert without_folder(records) == [
        {
            "audio_filepath": "174-50561-0000.flac",
            "duration": 1.0,
            "speaker": "174",
            "text": "forgotten too the name of gillian",
        },
        {"audio_filepath": "84-121123-0000.flac", "duration": 1.0, "speaker": "84", "text": "go do you hear"},
        {
            "audio_filepath": "84-121123-0001.flac",
            "duration": 1.5,
            "speaker": "84",
            "text": "but in less than five minutes",
        },
    ]
    assert records[0]["audio_filepath"] == str(home / "dev-clean/174/50561/174-50561-0000.flac")
    assert "dev-clean: 3 utterances; 2703 were published" in printed


def test_several_parts_must_be_asked_for(prepare, tmp_path):
    tiny.librispeech(tmp_path)
    _, printed = prepare("corpus=librispeech", f"source={tmp_path}", status=1)
    assert "has the parts dev-clean, test-other; say which, such as parts=[dev-clean]" in printed
    _, printed = prepare("corpus=librispeech", f"source={tmp_path}", "parts=train", status=1)
    assert "no part 'train' in it; there are: dev-clean, test-other" in printed
    _, printed = prepare("corpus=librispeech", f"source={tmp_path}", "parts=7", status=1)
    assert "parts is 7, expected names of parts" in printed
    records, _ = prepare("corpus=librispeech", f"source={tmp_path}", "parts=[test-other,dev-clean]")
    assert [record["speaker"] for record in records] == ["367", "174", "84", "84"]


def test_librispeech_that_is_not_whole(prepare, tmp_path):
    home = tiny.librispeech(tmp_path)
    tiny.audio(home / "dev-clean/84/121123/84-121123-0002.flac", 1)
    (home / "dev-clean/84/121123/84-121123-0001.flac").unlink()
    arguments = ["corpus=librispeech", f"source={home}", "parts=dev-clean"]
    _, printed = prepare(*arguments, status=1)
    assert "84-121123-0001.flac: no such audio file" in printed
    records, printed = prepare(*arguments, "skip_bad=true")
    assert len(records) == 2
    assert "1 x no transcript" in printed
    assert "1 x no such audio file" in printed


@pytest.mark.parametrize(
    ("corpus", "recipe", "make", "parts"),
    [("librispeech", "librispeech", tiny.librispeech, ("dev-clean", "dev-clean")),
     pytest.param("common_voice", "commonvoice", tiny.common_voice, ("train", "fr/train"), marks=slow)],
)  # fmt: skip
def test_lines_are_those_of_lhotse_s_recipe(prepare, tmp_path, corpus, recipe, make, parts):
    home = make(tmp_path)
    if corpus == "common_voice":  # which the recipe wants to be there
        (home / "test.tsv").write_text((home / "dev.tsv").read_text())
    ours, _ = prepare(f"corpus={corpus}", f"source={home}", f"parts={parts[0]}", "clean=false")
    folder = home.parent if corpus == "common_voice" else home
    arguments = ["corpus=recipe", f"recipe={recipe}", f"source={folder}", f"parts={parts[1]}", "clean=false"]
    theirs, _ = prepare(*arguments, "overwrite=true")
    # as it stands in the table, where ours has tidied white space
    theirs = [{**record, "text": " ".join(record["text"].split())} for record in theirs]
    assert sorted(ours, key=str) == sorted(theirs, key=str)


def test_a_recipe_s_manifests_are_of_the_corpus_that_is_named(prepare, tmp_path):
    first, second = tiny.librispeech(tmp_path / "first"), tiny.librispeech(tmp_path / "second")
    arguments = ["corpus=recipe", "recipe=librispeech"]
    work = tmp_path / "out" / ".partial.m.json.lhotse"
    for home in (first, second):
        prepare(*arguments, f"source={home}", status=1)  # several parts, and none is named
        assert list(work.glob("*.jsonl.gz")), "to go on from"
    records, _ = prepare(*arguments, f"source={second}", "parts=dev-clean")
    assert all(record["audio_filepath"].startswith(str(second)) for record in records)
    assert not work.exists()
    prepare(*arguments, f"source={second}", "overwrite=true", status=1)
    texts = next(second.rglob("84-121123.trans.txt"))
    texts.write_text(texts.read_text().replace("GO DO YOU HEAR", "CHANGED"))
    records, _ = prepare(*arguments, f"source={second}", "parts=dev-clean", "overwrite=true")
    assert "changed" in [record["text"] for record in records]


def test_recipes_that_are_not_there(prepare, tmp_path):
    _, printed = prepare("corpus=recipe", f"source={tmp_path}", "recipe=nothing", status=1)
    assert "recipe is 'nothing', expected one of Lhotse's: adept, aishell" in printed
    _, printed = prepare("corpus=recipe", f"source={tmp_path}", "recipe=librispeech", status=1)
    assert "Lhotse's recipe librispeech cannot read it: ValueError: Could not find any" in printed


def test_libri_light(prepare, tmp_path):
    tiny.libri_light(tmp_path)
    records, printed = prepare("corpus=libri_light", f"source={tmp_path}", "join_up_to=6")
    assert without_folder(records) == [
        {"audio_filepath": "01_baum.flac", "offset": 0.4, "duration": 2.8, "speaker": "100"},
        {"audio_filepath": "01_baum.flac", "offset": 4.0, "duration": 5.0, "speaker": "100"},
    ]
    assert "1 recordings have no voice in them" in printed
    arguments = ["corpus=libri_light", f"source={tmp_path / 'small'}", "overwrite=true"]
    records, _ = prepare(*arguments)
    assert [(r["offset"], r["duration"]) for r in records] == [(0.4, 8.6)]
    records, _ = prepare(*arguments, "join_up_to=null")
    assert [(r.get("offset"), r["duration"]) for r in records] == [(None, 12.0), (None, 2.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("{", "not JSON"),
        ("[]", "expected an object with speaker and voice_activity"),
        ('{"speaker": 1, "voice_activity": [[3, 1]]}', "voice_activity has a stretch from 3 to 1 s"),
        ('{"speaker": 1, "voice_activity": [3]}', "voice_activity is [3], expected pairs of seconds"),
    ],
)
def test_libri_light_with_a_bad_file(prepare, tmp_path, content, message):
    tiny.libri_light(tmp_path)
    path = next(tmp_path.rglob("01_baum.json"))
    path.unlink() if content is None else path.write_text(content)
    _, printed = prepare("corpus=libri_light", f"source={tmp_path}", status=1)
    assert f"error: {path}: {message}" in printed


def test_stretches_are_joined_and_divided():
    assert list(joined([(0, 1), (2, 4), (5, 9), (9, 10)], 5)) == [(0, 4), (5, 10)]
    assert list(joined([(0, 1), (1, 12), (13, 14)], 4)) == [
        (0, 1), (1, pytest.approx(4.667, abs=1e-3)), (pytest.approx(4.667, abs=1e-3), pytest.approx(8.333, abs=1e-3)),
        (pytest.approx(8.333, abs=1e-3), 12), (13, 14),
    ]  # fmt: skip
    assert list(joined([], 4)) == []


def test_common_voice(prepare, tmp_path):
    home = tiny.common_voice(tmp_path)
    characters = 'characters=" abcdefghijklmnopqrstuvwxyz\'"'
    records, _ = prepare("corpus=common_voice", f"source={tmp_path}", "parts=[train]", characters)
    assert [(r["speaker"], r["text"]) for r in records] == [("a1", "il a dit non"), ("b2", "deux mots")]
    _, printed = prepare("corpus=common_voice", f"source={tmp_path}", "overwrite=true", status=1)
    assert "has the parts train, dev; say which" in printed
    (home / "validated.tsv").write_text((home / "train.tsv").read_text())
    for parts, message in (("[train,train]", "parts has train twice"), ("[train,validated]", "validated and train")):
        _, printed = prepare("corpus=common_voice", f"source={tmp_path}", f"parts={parts}", "overwrite=true", status=1)
        assert message in printed


def test_common_voice_of_two_languages(prepare, tmp_path):
    home = tiny.common_voice(tmp_path)
    tiny.lines(home.parent / "cs" / "train.tsv", "client_id\tpath\tsentence")
    _, printed = prepare("corpus=common_voice", f"source={home.parent}", "parts=train", status=1)
    assert "has the languages cs, fr; give the folder of one" in printed
    _, printed = prepare("corpus=common_voice", f"source={home.parent / 'cs'}", "parts=train", status=1)
    assert "cs/clips: no such folder; expected Common Voice's clips" in printed
    tiny.lines(home / "train.tsv", "client_id\tfile", "a\tb")
    _, printed = prepare("corpus=common_voice", f"source={home}", "parts=train", status=1)
    assert "train.tsv:1: no column path, sentence; it has client_id, file" in printed
    _, printed = prepare("corpus=common_voice", f"source={home / 'train.tsv'}", "parts=[dev]", status=1)
    assert "train.tsv: is one table, and parts are several" in printed


def test_kaldi_with_segments(prepare, tmp_path):
    records, printed = prepare("corpus=kaldi", f"source={tiny.kaldi(tmp_path)}")
    assert without_folder(records) == [
        {"audio_filepath": "r1.wav", "offset": 0.5, "duration": 1.75, "speaker": "s0", "text": "text a"},
        {"audio_filepath": "r1.wav", "offset": 3.0, "duration": 2.0, "speaker": "s1", "text": "text b"},
        {"audio_filepath": "r2.wav", "offset": 0.0, "duration": 2.0, "speaker": "s0", "text": "text c"},
    ]
    assert "no " not in printed


def test_kaldi_s_channels_are_left_out_where_their_mean_would_be_read(prepare, tmp_path):
    """Channel 0 of a file with one is the file."""
    home = tiny.kaldi(tmp_path)
    tiny.audio(tmp_path / "wav" / "r1.wav", 5, channels=2)
    tiny.lines(home / "segments", "s1-r1-0 r1 0.5 2.25 0", "s1-r1-1 r1 3 -1 1", "s2-r2-0 r2 0 2.0 0")
    records, _ = prepare("corpus=kaldi", f"source={home}")
    assert [record["text"] for record in records] == ["text c"]
    left_out = [
        json.loads(line)["reason"] for line in (tmp_path / "out" / "m.json.skipped.jsonl").read_text().splitlines()
    ]
    assert [reason[:13] for reason in left_out] == ["on channel 0:", "on channel 1:"]


def test_kaldi_without_segments(prepare, tmp_path):
    home = tiny.kaldi(tmp_path, segments=False)
    tiny.lines(home / "text", "r1 said", "r9 by nobody")
    (home / "utt2spk").unlink()
    records, printed = prepare("corpus=kaldi", f"source={home}")
    assert [(r["duration"], r.get("text")) for r in records] == [(5.0, "said"), (2.0, None)]
    assert f"no utt2spk in {home}: no speakers" in printed
    assert f"1 of 2 utterances have no line in {home / 'text'}" in printed
    assert f"1 lines of {home / 'text'} belong to no utterance" in printed


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("transcribed=true", "transcribed has no effect with corpus=kaldi, only with folder"),
        ("parts=[train]", "parts has no effect with corpus=kaldi, only with librispeech, libri_light"),
        ("join_up_to=20", "join_up_to has no effect with corpus=kaldi, only with libri_light"),
        ("fix_duration=true", "fix_duration has no effect with corpus=kaldi, only with manifest"),
    ],
)
def test_options_of_other_corpora_are_refused(prepare, tmp_path, option, message):
    records, printed = prepare("corpus=kaldi", f"source={tiny.kaldi(tmp_path)}", option, status=1)
    assert message in printed
    assert records is None


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("wav.scp", ["r1 sph2pipe -f wav x.sph |"], "wav.scp:1: a command: 'sph2pipe -f wav x.sph |'; expected an"),
        ("wav.scp", ["r1 raw.ark:17"], "wav.scp:1: a part of an archive: 'raw.ark:17'"),
        ("wav.scp", ["r1"], "wav.scp:1: a name without a file"),
        ("wav.scp", ["r1 wav/r1.wav", "r1 wav/r2.wav"], "wav.scp:2: a second line of 'r1'"),
        ("wav.scp", ["r1 nowhere/r1.wav"], "wav.scp:1: no nowhere/r1.wav in any of "),
        ("segments", ["u r1 0"], "segments:1: 3 words; expected utterance, recording, begin and end"),
        ("segments", ["u r1 0 1", "v r3 0 1"], "segments:2: no recording 'r3' in wav.scp"),
        ("segments", ["u r1 zero 1"], "segments:1: from 'zero' to '1'; expected seconds"),
        ("segments", ["u r1 2 1"], "segments:1: from 2 to 1 s; expected an end behind the beginning"),
        ("segments", ["s1-r1-0 r1 0 9"], "lasts 5.00 s; 9.00 s from 0.00 s on are asked for"),
        ("text", ["x Text"], "text: none of its 1 names is one of the 3 utterances (the first is 'x'"),
        ("utt2spk", ["s1-r1-0 a", "s1-r1-0 b"], "utt2spk:2: a second line of 's1-r1-0'"),
    ],
)
def test_what_is_wrong_with_a_kaldi_folder(prepare, tmp_path, file, content, message):
    home = tiny.kaldi(tmp_path)
    tiny.lines(home / file, *content)
    records, printed = prepare("corpus=kaldi", f"source={home}", status=1)
    assert message in printed
    assert records is None


def test_a_folder_does_not_lose_kaldi_s_transcripts(prepare, tmp_path):
    """Audio with Kaldi's files beside it: its transcripts were lost without a word."""
    home = tiny.kaldi(tmp_path)
    records, printed = prepare(f"source={tmp_path}", status=1)
    assert "no transcripts beside its audio, but Kaldi's files (segments, text, utt2spk, wav.scp)" in printed
    assert f"corpus=kaldi source={home} reads them" in printed
    assert records is None
    records, printed = prepare(f"source={tmp_path}", "transcribed=false")
    assert len(records) == 2
    assert "transcripts" not in printed


def test_a_folder_says_which_transcripts_it_looked_for(prepare, tmp_path):
    for name in ("a", "b"):
        tiny.audio(tmp_path / "wav" / f"{name}.wav", 1)
    tiny.lines(tmp_path / "wav" / "metadata.csv", "a|text")
    _, printed = prepare(f"source={tmp_path / 'wav'}")
    assert "no transcripts: neither *.trans.txt nor NAME.txt beside any of the 2 audio files" in printed
    assert "not read: metadata.csv (transcripts= names a table of them)" in printed
    tiny.lines(tmp_path / "wav" / "a.txt", "said")
    _, printed = prepare(f"source={tmp_path / 'wav'}", "overwrite=true")
    assert "1 of 2 audio files have no transcript" in printed


def test_lhotse(prepare, tmp_path):
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    recording = Recording.from_file(tiny.audio(tmp_path / "r.wav", 4))

    def said(name, start, duration, text):
        return SupervisionSegment(name, recording.id, start, duration, text=text, speaker="s")

    cuts = [
        recording.to_cut(),
        MonoCut("part", 1.0, 2.0, 0, [said("x", 0, 2, "One")], recording=recording),
        MonoCut("two", 0.5, 3.0, 0, [said("y", 0.5, 1, "Two"), said("z", 2, 1, "Three")], recording=recording),
    ]
    cuts += [
        MonoCut("head", 0.0, 1.0, 0, [said("p", 0.5, 1, "Torn")], recording=recording),
        MonoCut("both", 1.0, 2.0, 0, [said("p", -0.5, 1, "Torn"), said("q", 1, 1, "Whole")], recording=recording),
    ]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    records, printed = prepare("corpus=lhotse", f"source={tmp_path / 'cuts.jsonl.gz'}")
    assert "2 x a supervision begins or ends outside its cut" in printed
    assert without_folder(records) == [
        {"audio_filepath": "r.wav", "duration": 4.0},
        {"audio_filepath": "r.wav", "offset": 1.0, "duration": 2.0, "speaker": "s", "text": "one"},
        {"audio_filepath": "r.wav", "offset": 1.0, "duration": 1.0, "speaker": "s", "text": "two"},
        {"audio_filepath": "r.wav", "offset": 2.5, "duration": 1.0, "speaker": "s", "text": "three"},
    ]
    assert "no supervision" not in printed


def test_what_is_no_cut(prepare, tmp_path):
    from lhotse import AudioSource, CutSet, Recording
    from lhotse.utils import fastcopy

    cut = Recording.from_file(tiny.audio(tmp_path / "r.wav", 2)).to_cut()
    fetched = fastcopy(cut.recording, sources=[AudioSource("url", [0], "https://nowhere.invalid/r.wav")])
    two = Recording.from_file(tiny.audio(tmp_path / "two.wav", 2, channels=2)).to_cut()
    path = tmp_path / "cuts.jsonl"
    supervision = '{"id": "x", "recording_id": "r", "start": 0, "duration": 1, "channel": 0}'
    for content, message in [
        (cut.perturb_speed(1.1), "cuts.jsonl:1: cut 'r_sp1.1' changes its audio"),
        (cut.pad(3.0), "cuts.jsonl:1: a MixedCut, expected a MonoCut"),
        (two, "cuts.jsonl:1: a MultiCut, expected a MonoCut"),
        (fastcopy(cut, recording=fetched), "is url, expected one file"),
        (supervision, "cuts.jsonl:1: a supervision, expected a cut"),
        ('{"a": 1}', "cuts.jsonl:1: no cut of Lhotse's ("),
        ("[]", "cuts.jsonl:1: expected a JSON object, found list"),
    ]:
        if isinstance(content, str):
            tiny.lines(path, content)
        else:
            CutSet.from_cuts([content]).to_file(path)
        _, printed = prepare("corpus=lhotse", f"source={path}", status=1)
        assert message in printed
    (tmp_path / "empty").mkdir()
    _, printed = prepare("corpus=lhotse", f"source={tmp_path / 'empty'}", status=1)
    assert "a folder without cuts.000000.jsonl.gz" in printed


@pytest.fixture
def shar(tmp_path):
    """Five cuts in three shards: the first a part of its recording, the third with two supervisions."""
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    cuts = []
    for number in range(5):
        path = tmp_path / "audio" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, 32000 + 1600 * number)
        soundfile.write(path, samples, 16000, subtype="PCM_16")
        recording = Recording.from_file(path)
        begin, seconds = (0.5, 1.25) if number == 0 else (0.0, recording.duration)
        parts = (
            [("Two", 0.0, 1.0), ("Three", 1.5, 0.5)] if number == 2 else [(f"Text {'abcde'[number]}", 0.0, seconds)]
        )
        said = [
            SupervisionSegment(f"s{number}-{place}", recording.id, *times, text=text, speaker="s")
            for place, (text, *times) in enumerate(parts)
        ]
        custom = {"units": ["a", "b"], "unit_durations": [10, number + 10], "score": 0.5}
        custom |= {"offset": 7, "shard_id": 3} if number == 4 else {}  # of elsewhere
        cuts.append(MonoCut(f"cut.{number}", begin, seconds, 0, said, recording=recording, custom=custom))
    (tmp_path / "shar").mkdir()
    CutSet.from_cuts(cuts).to_shar(tmp_path / "shar", fields={"recording": "flac"}, shard_size=2)
    return tmp_path / "shar"


def test_lhotse_shar_stays_where_it_is(prepare, shar, tmp_path):
    records, printed = prepare("corpus=lhotse", f"source={shar}")
    tar = f"{shar}/recording.00000%d.tar"
    kept = {"speaker": "s", "units": ["a", "b"], "score": 0.5}
    spans = [record.pop("tar_span") for record in records]
    assert records == [
        {"audio_filepath": "cut.0.flac", "tar_filepath": tar % 0, "duration": 1.25, **kept, "unit_durations": [10, 10],
         "text": "text a"},
        {"audio_filepath": "cut.1.flac", "tar_filepath": tar % 0, "duration": 2.1, **kept, "unit_durations": [10, 11],
         "text": "text b"},
        {"audio_filepath": "cut.2.flac", "tar_filepath": tar % 1, "offset": 0.0, "duration": 1.0, "speaker": "s",
         "text": "two"},
        {"audio_filepath": "cut.2.flac", "tar_filepath": tar % 1, "offset": 1.5, "duration": 0.5, "speaker": "s",
         "text": "three"},
        {"audio_filepath": "cut.3.flac", "tar_filepath": tar % 1, "duration": 2.3, **kept, "unit_durations": [10, 13],
         "text": "text d"},
        {"audio_filepath": "cut.4.flac", "tar_filepath": tar % 2, "duration": 2.4, **kept, "unit_durations": [10, 14],
         "text": "text e"},
    ]  # fmt: skip
    assert "not read" not in printed
    manifest = tmp_path / "out" / "m.json"
    with tarfile.open(tar % 2) as file:
        member = file.getmember("cut.4.flac")
        assert spans[-1] == [member.offset, member.offset_data + member.size]
    for number, record in enumerate(records):
        place = int(record["audio_filepath"].split(".")[1])
        samples = soundfile.read(tmp_path / "audio" / f"{place}.wav", dtype="float32")[0]
        begin = round((0.5 if place == 0 else record.get("offset", 0.0)) * 16000)
        heard = read_utterance(record | {"tar_span": spans[number]}, manifest, number + 1)
        assert np.array_equal(heard, samples[begin : begin + len(heard)])
        assert len(heard) == round(record["duration"] * 16000)


def test_a_manifest_beside_shar_moves_with_it(prepare, shar, tmp_path):
    shar.rename(tmp_path / "out")
    records, _ = prepare("corpus=lhotse", f"source={tmp_path / 'out'}")
    assert [record["tar_filepath"] for record in records[:2]] == ["recording.000000.tar"] * 2
    (tmp_path / "out").rename(tmp_path / "moved")
    assert len(read_utterance(records[0], tmp_path / "moved" / "m.json", 1)) == 20000


def test_shar_that_is_not_whole(prepare, shar, tmp_path):
    tar, cuts = shar / "recording.000001.tar", shar / "cuts.000001.jsonl.gz"
    whole = cuts.read_bytes()
    lines = gzip.decompress(whole).decode().splitlines(keepends=True)
    first, second = gzip.compress(lines[0].encode()), gzip.compress("".join(reversed(lines)).encode())
    for content, message in [
        (first, f"{cuts}: ends before {tar}, which has 'cut.3', too"),
        (second, f"{cuts}:1: has 'cut.3' where {tar} has 'cut.2'"),
        (gzip.compress("".join([*lines, lines[0]]).encode()), f"{tar}: ends before {cuts}, which has 'cut.2', too"),
        (gzip.compress(b"{}\n"), f"{cuts}:1: no cut of Lhotse's"),
    ]:
        cuts.write_bytes(content)
        _, printed = prepare("corpus=lhotse", f"source={shar}", status=1)
        assert message in printed
    cuts.write_bytes(whole)
    content = tar.read_bytes()
    tar.write_bytes(content[:100])
    _, printed = prepare("corpus=lhotse", f"source={shar}", status=1)
    assert f"{tar}: not a tar file that can be read" in printed
    tar.write_bytes(gzip.compress(content))
    tar.rename(f"{tar}.gz")
    _, printed = prepare("corpus=lhotse", f"source={shar}", status=1)
    assert f"{tar}.gz: expected a tar that is not compressed" in printed
    Path(f"{tar}.gz").unlink()
    _, printed = prepare("corpus=lhotse", f"source={shar}", status=1)
    assert f"{shar}: it has cuts.000001.*, but no recording.000001.*" in printed


def test_what_a_shar_has_beside_its_audio(prepare, shar):
    (shar / "features.000000.tar").touch()
    _, printed = prepare("corpus=lhotse", f"source={shar}")
    assert f"{shar}: not read: features" in printed


def test_librispeech_lm(prepare, tmp_path):
    import gzip

    path = tmp_path / "librispeech-lm-norm.txt.gz"
    path.write_bytes(gzip.compress(b"A ONE\nSIX FEET\n\nTHE END\n"))
    records, printed = prepare("corpus=librispeech_lm", f"source={path}")
    assert [record["text"] for record in records] == ["a one", "six feet", "the end"]
    assert "3 written" in printed
    path.write_bytes(gzip.compress("A ONE\n  Six\tfeet, \u201cna\u00efve\u201d 4th \n\u00a0\nTHE END\n".encode()))
    records, printed = prepare("corpus=librispeech_lm", f"source={tmp_path}", "clean=false", "overwrite=true")
    assert [record["text"] for record in records] == ["A ONE", "Six feet, \u201cna\u00efve\u201d 4th", "THE END"]
    assert "3 written" in printed


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_huggingface(prepare, tmp_path, form):
    datasets = pytest.importorskip("datasets")
    home = tmp_path / "hf"
    home.mkdir()
    content = tiny.audio(tmp_path / "x.wav", 1.5).read_bytes()
    rows = {
        "audio": [{"bytes": content, "path": "a.wav"}, {"bytes": content, "path": None}],
        "sentence": ["One", "Two"],
        "speaker_id": [7, 8],
    }
    split = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    if form == "saved":
        datasets.DatasetDict({"train": split}).save_to_disk(str(home))
    else:
        split.to_parquet(str(home / "train-00000-of-00001.parquet"))
    records, _ = prepare("corpus=huggingface", f"source={home}", "parts=train")
    assert [(r["duration"], r["speaker"], r["text"]) for r in records] == [(1.5, "7", "one"), (1.5, "8", "two")]
    assert records[0]["audio_filepath"] == "m.json.audio/train/0000/00000000.wav"
    assert (tmp_path / "out" / records[1]["audio_filepath"]).read_bytes() == content


def test_no_older_manifest_of_huggingface_names_newer_audio(prepare, tmp_path):
    datasets = pytest.importorskip("datasets")

    def save(name, *rows):
        columns = {"audio": [audio for audio, _ in rows], "text": [text for _, text in rows]}
        split = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(decode=False))
        split.save_to_disk(str(tmp_path / name))
        return ["corpus=huggingface", f"source={tmp_path / name}"]

    one, two = ({"bytes": tiny.audio(tmp_path / "x.wav", s).read_bytes(), "path": "x.wav"} for s in (1.0, 1.5))
    prepare(*save("old", (one, "one")))
    records, _ = prepare(*save("none", (None, "four")), "overwrite=true", status=1)
    assert records[0]["text"] == "one", "its audio is there still"
    records, _ = prepare(*save("new", (two, "three"), (None, "four")), "overwrite=true", status=1)
    assert records is None


def test_audio_with_a_table_needs_no_decoder(prepare, tmp_path):
    """``datasets`` opens it with a decoder of audio only; the command says how it is read without one."""
    pytest.importorskip("datasets")
    home = tmp_path / "hf" / "train"
    for name in "ab":
        tiny.audio(home / f"{name}.wav", 1.5)
    table = tiny.lines(home / "metadata.csv", "file_name,sentence,speaker_id", "a.wav,One,7", "b.wav,Two,8")
    if importlib.util.find_spec("torchcodec") is None:
        _, printed = prepare("corpus=huggingface", f"source={tmp_path / 'hf'}", status=1)
        assert (
            f"No module named 'torchcodec'; corpus=folder source={home} transcripts={table} reads its files" in printed
        )
    records, _ = prepare("corpus=folder", f"source={home}", f"transcripts={table}")
    assert [record["text"] for record in records] == ["one", "two"]


def test_what_datasets_cannot_open(prepare, tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "empty").mkdir()
    _, printed = prepare("corpus=huggingface", f"source={tmp_path / 'empty'}", status=1)
    assert "empty: datasets cannot open it: " in printed
    _, printed = prepare("corpus=huggingface", "source=user/name", status=1)
    assert "user/name: no such folder; corpus=huggingface opens a folder, and downloads nothing" in printed
    tiny.lines(tmp_path / "csv" / "a.csv", "x,y", "1,2")
    _, printed = prepare("corpus=huggingface", f"source={tmp_path / 'csv'}", status=1)
    assert "csv: no column with audio; it has x, y" in printed


def packed(archive, folder, **more):
    """A tar.gz of a folder, its members named from the folder above it; more: members by name."""
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, path.relative_to(folder.parent).as_posix())
        for name, content in more.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return archive


def test_archives(prepare, tmp_path):
    home = tiny.librispeech(tmp_path / "made")
    archive = packed(tmp_path / "dev-clean.tar.gz", home)
    source = ["corpus=librispeech", f"source={archive}", "parts=dev-clean"]
    records, printed = prepare(*source)
    assert len(records) == 3
    assert f"{archive}: not checked, no checksum of it beside it" in printed
    unpacked = tmp_path / "dev-clean.tar.gz.unpacked/LibriSpeech/dev-clean/84/121123/84-121123-0001.flac"
    assert unpacked.is_file()
    unpacked.unlink()  # the archive is known to be unpacked, so it is not looked at again
    _, printed = prepare(*source, "overwrite=true", status=1)
    assert "84-121123-0001.flac: no such audio file" in printed


def test_checksums_of_archives(prepare, tmp_path):
    archive = packed(tmp_path / "small.tar.gz", tiny.libri_light(tmp_path / "made") / "small")
    source = ["corpus=libri_light", f"source={archive}"]
    tiny.lines(tmp_path / "md5sum.txt", f"{hashlib.md5(b'').hexdigest()}  other.tar.gz", f"{'0' * 32}  small.tar.gz")
    records, printed = prepare(*source, status=1)
    assert f"{archive}: its md5 is {hashlib.md5(archive.read_bytes()).hexdigest()}, expected {'0' * 32}" in printed
    assert records is None
    assert not (tmp_path / "small.tar.gz.unpacked").exists()
    own = tiny.lines(tmp_path / "own", f"{hashlib.sha256(archive.read_bytes()).hexdigest()} *./small.tar.gz")
    records, printed = prepare(*source, f"checksums={own}")
    assert len(records) == 1
    assert "not checked" not in printed
    anew = [*source, f"unpack_to={tmp_path / 'x'}", "overwrite=true"]
    _, printed = prepare(*anew, f"checksums={tmp_path / 'nowhere'}", status=1)
    assert "nowhere: no such file" in printed
    own.write_text("nothing\n")
    _, printed = prepare(*anew, f"checksums={own}", status=1)
    assert f"{own}: has no SHA-256 or MD5 of small.tar.gz" in printed


def test_archives_that_cannot_be_unpacked(prepare, tmp_path):
    home = tiny.libri_light(tmp_path / "made") / "small"
    bad = packed(tmp_path / "bad.tar.gz", home, **{"../escaped": b"x"})
    _, printed = prepare("corpus=libri_light", f"source={bad}", status=1)
    assert "outside the destination; nothing of it is unpacked outside" in printed
    assert not (tmp_path / "escaped").exists()
    whole = packed(tmp_path / "whole.tar.gz", home, **{"small/more": random.Random(0).randbytes(100_000)})
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:-50_000])
    _, printed = prepare("corpus=libri_light", f"source={cut}", status=1)
    assert "cut.tar.gz: cannot be unpacked: " in printed
    # tried again, what was unpacked of it stays; of another archive of that name, all files are new
    made = next((tmp_path / "cut.tar.gz.unpacked").rglob("[!.]*.json"))
    content, other = made.read_bytes(), bytes(made.stat().st_size)
    made.write_bytes(other)
    prepare("corpus=libri_light", f"source={cut}", status=1)
    assert made.read_bytes() == other
    cut.write_bytes(whole.read_bytes())
    records, _ = prepare("corpus=libri_light", f"source={cut}")
    assert len(records) == 1
    assert made.read_bytes() == content
    _, printed = prepare("corpus=libri_light", f"source=[{cut},{home}]", "overwrite=true", status=1)
    assert "is no archive (.tar, .tar.gz, ...); a list of sources is one of archives" in printed

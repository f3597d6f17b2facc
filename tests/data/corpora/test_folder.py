import os

import numpy as np
import pytest
import soundfile

from nemo_speechlm.data.corpora.folder import (
    CorpusOptions,
    find_audio,
    list_folder,
    make_folder_work,
    make_manifest_work,
)
from nemo_speechlm.data.corpora.folder_transcripts import Transcripts
from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.files import dump_line


@pytest.fixture
def folder(tmp_path):
    """Two speakers' folders, a/1/ and b/2/, with files a1, a2 and b1."""
    for name, seconds in (("a/1/a1.wav", 1.0), ("a/1/a2.flac", 2.0), ("b/2/b1.OGG", 0.5)):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(int(8000 * seconds)), 8000)
    (tmp_path / "corpus" / "notes.md").write_text("no audio")
    return tmp_path / "corpus"


def texts(folder, source=None):
    audio = find_audio(folder)
    transcripts = Transcripts(folder, audio, source)
    return [transcripts[path] for path in audio]


def test_audio_is_found_in_all_folders(folder):
    assert [path.name for path in find_audio(folder)] == ["a1.wav", "a2.flac", "b1.OGG"]


def test_links_to_folders_are_followed_once(folder, tmp_path):
    """Of a corpus whose parts lie on several disks, those behind links were left out."""
    other = tmp_path / "other disk" / "c"
    other.mkdir(parents=True)
    soundfile.write(other / "c1.wav", np.zeros(800), 8000)
    for name, target in {"c": other, "c again": other, "all": folder, "up": tmp_path, "a/b": folder / "b"}.items():
        (folder / name).symlink_to(target)
    (other / "loop").symlink_to(other)
    found = find_audio(folder)
    assert [path.name for path in found] == ["a1.wav", "a2.flac", "b1.OGG", "c1.wav"]
    assert found[-1] == folder / "c" / "c1.wav"


def test_no_audio(tmp_path):
    with pytest.raises(InputError, match="no audio files"):
        find_audio(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_audio(tmp_path / "x")


def test_transcripts_beside_the_audio(folder):
    assert texts(folder) == [None, None, None]
    (folder / "a/1/a-1.trans.txt").write_text("a1 ONE TWO\na2 THREE\n")
    (folder / "b/2/b1.txt").write_text("four\nfive\n")
    assert texts(folder) == ["ONE TWO", "THREE", "four five"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", 'client\tpath\tsentence\nx\ta1.wav\tit\'s "one"\nx\tb/2/b1\ttwo\n'),
        ("t.csv", 'path,text\n"a/1/a1.wav","it\'s ""one"""\nb1,two\n'),
        ("t.jsonl", '{"audio_filepath": "a1.wav", "text": "it\'s \\"one\\""}\n{"file": "b1.OGG", "text": "two"}\n'),
        ("t.txt", 'a1 it\'s "one"\nb/2/b1.OGG two\n'),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_one_file_of_transcripts(folder, name, content, inside):
    source = (folder if inside else folder.parent) / name
    source.write_text(content)
    assert texts(folder, source) == ['it\'s "one"', None, "two"]


def test_transcripts_with_paths_of_their_own(folder):
    source = folder / "a" / "t.txt"
    source.write_text(f"1/a1.wav one\n{folder / 'b/2/b1.OGG'} two\nelsewhere three\n")
    audio = find_audio(folder)
    transcripts = Transcripts(folder, audio, source)
    assert [transcripts[path] for path in audio] == ["one", None, "two"]
    assert transcripts.unmatched == 1


def test_transcripts_that_fit_nothing(folder):
    (folder / "t.txt").write_text("x one\ny two\n")
    with pytest.raises(InputError, match=r"t\.txt: none of its 2 transcripts"):
        texts(folder, folder / "t.txt")


def test_transcripts_that_fit_two_files(folder):
    soundfile.write(folder / "b/2/a1.wav", np.zeros(800), 8000)
    (folder / "t.txt").write_text("a/1/a1 one\na1 two\n")
    with pytest.raises(InputError, match=r"t\.txt:2: 'a1' may be .*a1\.wav or .*a1\.wav; expected a path"):
        texts(folder, folder / "t.txt")


def test_two_texts_of_one_file(folder):
    (folder / "t.txt").write_text("a1 one\na1 one\na/1/a1 two\n")
    with pytest.raises(InputError, match=r"t\.txt:3: .*a1\.wav has another text already: 'one'"):
        texts(folder, folder / "t.txt")


def test_table_without_the_columns(folder):
    (folder / "t.csv").write_text("path,words\na1,one\n")
    with pytest.raises(InputError, match=r"t\.csv:2: expected a column named text or .*; it has path, words"):
        texts(folder, folder / "t.csv")
    with pytest.raises(InputError, match=r"x\.tsv: no such file"):
        texts(folder, folder / "x.tsv")


def records(folder, output, options=None, **listing):
    path = folder.parent / "listing"
    list_folder(folder, path, **listing)
    work = make_folder_work(path, output, options or CorpusOptions())
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            found.append(work(number, line))
        except SkipItem as skipped:
            found.append((str(skipped), skipped.path))
    return found


def test_records_of_a_folder(folder):
    (folder / "a/1/x.trans.txt").write_text("a1 One, two!\na2 THREE 3\n")
    options = CorpusOptions(cleaning=TextCleaning())
    first, second, third = records(folder, folder / "m.json", options, speaker_level=2)
    assert first == {"audio_filepath": "a/1/a1.wav", "duration": 1.0, "speaker": "a", "text": "one two"}
    assert second == ("transcript: digits (normalizer=nemo writes them out)", str(folder / "a/1/a2.flac"))
    assert third == {"audio_filepath": "b/2/b1.OGG", "duration": 0.5, "speaker": "b"}


def test_audio_elsewhere_has_absolute_paths(folder, tmp_path):
    first = records(folder, tmp_path / "out" / "m.json")[0]
    assert first["audio_filepath"] == str((folder / "a/1/a1.wav").resolve())


def test_durations_and_transcripts_may_be_required(folder):
    (folder / "a/1/x.trans.txt").write_text("a1 one\n")
    options = CorpusOptions(min_duration=0.6, max_duration=1.5)
    assert [r if isinstance(r, dict) else r[0] for r in records(folder, folder / "m.json", options)[1:]] == [
        "longer than max_duration=1.5 s",
        "shorter than min_duration=0.6 s",
    ]
    assert [isinstance(r, dict) for r in records(folder, folder / "m.json", transcribed=True)] == [True, False, False]
    assert not any("text" in r for r in records(folder, folder / "m.json", transcribed=False))


def test_a_name_that_is_not_utf_8(folder, tmp_path):
    bad = os.fsencode(folder / "a") + b"/caf\xe9"
    os.rename(folder / "a" / "1", bad)  # noqa: PTH104  # bytes
    (folder / os.fsdecode(b"\xe9.csv")).touch()
    (note,) = list_folder(folder, tmp_path / "listing")
    assert r"not read: \xe9.csv" in note
    lines = (tmp_path / "listing").read_text().splitlines()
    work = make_folder_work(tmp_path / "listing", tmp_path / "out.json", CorpusOptions())
    for line in lines[:2]:
        with pytest.raises(InputError, match=r"/a/caf\\xe9/a\d\.\w+: its name is not UTF-8"):
            work(1, line)
    assert work(3, lines[2])["duration"] == 0.5


def test_speaker_level_deeper_than_the_folders(folder):
    with pytest.raises(InputError, match=r"a1\.wav: speaker_level is 3, but it lies 2 folders deep"):
        records(folder, folder / "m.json", speaker_level=3)


@pytest.mark.parametrize(
    ("keys", "fix", "expected"),
    [
        ({}, False, 1.0),
        ({"duration": 1.01}, False, 1.0),
        ({"duration": 5.0}, False, "duration is 5 s"),
        ({"duration": 5.0}, True, 1.0),
        ({"offset": 0.75}, False, 0.25),
        ({"offset": 0.75, "duration": 0.1}, False, 0.1),
        ({"offset": 0.75, "duration": 0.5}, False, "lasts 0.250 s"),
        ({"offset": 0.75, "duration": 0.5}, True, 0.25),
        ({"offset": 2, "duration": 0.5}, True, "offset is 2 s"),
        ({"audio_filepath": "x.wav"}, True, r"x\.wav: no such audio file"),
    ],
)
def test_manifests_are_checked(folder, keys, fix, expected):
    manifest = folder / "m.json"
    manifest.write_text(dump_line({"audio_filepath": "a/1/a1.wav", "text": "Hi!", **keys}))
    work = make_manifest_work(manifest, folder / "out.json", CorpusOptions(fix_duration=fix))
    ((number, line),) = enumerate(manifest.read_text().splitlines(), start=1)
    if isinstance(expected, float):
        record = work(number, line)
        assert record["duration"] == expected
        assert record["text"] == "Hi!"
        assert record["audio_filepath"] == "a/1/a1.wav"
    else:
        with pytest.raises(InputError, match=expected) as error:
            work(number, line)
        assert str(error.value).startswith(f"{manifest}:1: ")


def test_paths_of_a_manifest_that_moves(folder, tmp_path):
    manifest = folder / "m.json"
    manifest.write_text(dump_line({"audio_filepath": "a/1/a1.wav"}))
    work = make_manifest_work(manifest, tmp_path / "elsewhere" / "m.json", CorpusOptions())
    record = work(1, manifest.read_text())
    assert record["audio_filepath"] == str((folder / "a/1/a1.wav").resolve())
    assert [r for _, r in read_manifest(manifest)] == [{"audio_filepath": "a/1/a1.wav"}]


def test_another_key_as_text(folder):
    manifest = folder / "m.json"
    keys = {"audio_filepath": "a/1/a1.wav", "text": "Where?"}
    manifest.write_text(dump_line({**keys, "source_text": "Kde?"}) + dump_line(keys))
    options = CorpusOptions(text_field="source_text", cleaning=TextCleaning())
    work = make_manifest_work(manifest, folder / "out.json", options)
    said, untold = manifest.read_text().splitlines()
    assert work(1, said) == {"audio_filepath": "a/1/a1.wav", "text": "kde", "duration": 1.0}
    with pytest.raises(InputError, match=r"m\.json:2: no 'source_text' \(text_field\)"):
        work(2, untold)

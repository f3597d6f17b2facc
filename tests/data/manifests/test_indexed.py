import gzip
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.manifests.indexed import IndexedManifest, IndexedManifests
from nemo_speechlm.errors import InputError

LINES = st.lists(st.sampled_from(["", " ", "\t ", "x", '{"a": 1}', " leading", "žluťoučký kůň", "\r", "tail "]))


@given(LINES, st.booleans(), st.booleans())
def test_equals_reading_line_by_line(tmp_path_factory, lines, ends_with_newline, gzipped):
    content = "\n".join(lines) + "\n" * ends_with_newline
    path = tmp_path_factory.mktemp("lines") / ("text.gz" if gzipped else "text")
    data = content.encode()
    path.write_bytes(gzip.compress(data) if gzipped else data)
    expected = [(n, line) for n, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if not expected:
        assert len(IndexedManifest(path)) == 0
        with pytest.raises(InputError, match="empty"):
            IndexedManifests([path])
        return
    index = IndexedManifest(path)
    assert [index[i] for i in range(len(index))] == expected


def test_chunks_join(tmp_path, monkeypatch):
    monkeypatch.setattr("nemo_speechlm.jobs.lines._BLOCK", 7)
    path = tmp_path / "text"
    lines = [str(i) * (i % 5 + 1) for i in range(50)]
    path.write_text("\n".join(lines) + "\n")
    index = IndexedManifest(path)
    assert [index[i] for i in range(len(index))] == list(enumerate(lines, start=1))


def test_travels_to_another_process(tmp_path):
    path = tmp_path / "text"
    path.write_text("a\nb\n")
    assert pickle.loads(pickle.dumps(IndexedManifest(path)))[1] == (2, "b")


def test_errors_name_file_and_line(tmp_path):
    with pytest.raises(InputError, match=r"missing.json: no such file"):
        IndexedManifest(tmp_path / "missing.json")
    path = tmp_path / "bad.gz"
    path.write_bytes(b"not gzip")
    with pytest.raises(InputError, match=r"bad.gz: cannot be read"):
        IndexedManifest(path)
    path = tmp_path / "latin"
    path.write_bytes(b"fine\n\xe9\n")
    with pytest.raises(InputError, match=r"latin:2: cannot be read as UTF-8"):
        IndexedManifest(path)[1]


def test_lines_of_several_files_in_a_row(tmp_path):
    (tmp_path / "a").write_text("x\n\ny\n")
    (tmp_path / "b").write_text("z\n")
    lines = IndexedManifests([tmp_path / "a", tmp_path / "b"])
    assert [(file.path.name, number, line) for file, number, line in map(lines.__getitem__, range(len(lines)))] == [
        ("a", 1, "x"),
        ("a", 3, "y"),
        ("b", 1, "z"),
    ]
    assert lines.first == [0, 2, 3]


def test_gzipped_manifests_are_unpacked_up_to_a_size(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"x" * 999 + b"\n"))
    (tmp_path / "plain").write_bytes(b"y" * 9999)
    paths = [tmp_path / name for name in ("a.gz", "plain", "b.gz")]
    monkeypatch.setattr("nemo_speechlm.data.manifests.indexed.GZIPPED_MOST", 2000)
    assert [len(line) for _, _, line in map(IndexedManifests(paths).__getitem__, range(3))] == [999, 9999, 999]
    monkeypatch.setattr("nemo_speechlm.data.manifests.indexed.GZIPPED_MOST", 1999)
    with pytest.raises(InputError, match=r"b\.gz: gzipped manifests of more than .* gunzip, or .* make_tarred"):
        IndexedManifests([tmp_path / "a.gz", tmp_path / "b.gz"])


def test_empty_shards_among_others(tmp_path):
    for name, text in (("a", ""), ("b", "x\n"), ("c", "\n")):
        (tmp_path / name).write_text(text)
    lines = IndexedManifests([tmp_path / name for name in "abc"])
    assert len(lines) == 1
    assert lines[0][1:] == (1, "x")


def test_a_file_that_changes_is_told(tmp_path):
    path = tmp_path / "text"
    path.write_text("a\nb\n")
    index = IndexedManifest(path)
    path.write_text("longer\nb\n")
    with pytest.raises(InputError, match="text: was changed while it was read"):
        index[0]

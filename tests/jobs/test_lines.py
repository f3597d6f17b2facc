"""The index of a file's lines says what reading the whole file would."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import iter_lines
from nemo_speechlm.jobs import lines as module
from nemo_speechlm.jobs.lines import LineIndex, index_lines

PIECES = [
    "\n",
    "\r",
    "\r\n",
    " ",
    "\t",
    "\x0b",
    "\x1c",
    "\u0085",
    "\u00a0",
    "\u3000",
    "\u2028",
    "é",
    "a",
    "{",
    "中文",
    " " * 300,
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 7)
    monkeypatch.setattr(module, "GRAIN", 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("lines")


@given(TEXTS, st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(0, 8), st.booleans())
def test_lines_and_their_numbers_are_those_of_the_whole_file(folder, text, first, size, max_lines, marked):
    path = folder / "text"
    path.write_bytes(text.encode("utf-8-sig" if marked else "utf-8"))
    expected = list(iter_lines(path))[:max_lines]
    index = index_lines(path, folder / "unpacked", max_lines)
    assert index.total == len(expected)
    index.save(folder)
    last = min(first + size, index.total)
    if first < last:
        assert list(LineIndex.load(folder).read(first, last)) == expected[first:last]


def test_gzipped(folder):
    text = "".join(f"line {n}\n\n" for n in range(10))
    for name, write in (("plain", open), ("packed.gz", gzip.open)):
        with write(folder / name, "wb") as file:
            file.write(text.encode())
    plain, packed = (index_lines(folder / name, folder / "unpacked") for name in ("plain", "packed.gz"))
    assert plain.digest == packed.digest
    assert list(packed.read(7, 9)) == [(15, "line 7\n"), (17, "line 8\n")]
    (folder / "packed.gz").write_bytes((folder / "packed.gz").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"packed\.gz: cannot be read as UTF-8 text: "):
        index_lines(folder / "packed.gz", folder / "unpacked")


def test_digest_is_of_the_content(folder):
    digests = set()
    for text in ("abc\nabc\nabc\n", "abc\nabc\nabd\n", "abc\nabc\nabc\n\n", "abc\nabc\n"):
        (folder / "text").write_text(text)
        digests.add(index_lines(folder / "text", folder / "unpacked").digest)
    assert len(digests) == 4


def test_a_line_that_is_not_utf8_is_an_error_of_its_own(folder):
    (folder / "text").write_bytes(b"a\n\xff\n \xff\nb\n")
    found = list(index_lines(folder / "text", folder / "unpacked").read(0, 4))
    assert [number for number, _ in found] == [1, 2, 3, 4]
    assert [type(line) for _, line in found] == [str, InputError, InputError, str]


def test_a_file_that_changed_is_not_read(folder):
    path = folder / "text"
    path.write_text("a\nb\n")
    index = index_lines(path, folder / "unpacked")
    path.write_text("a\nb\nc\n")
    with pytest.raises(SpeechLMError, match="was changed while a job read it"):
        next(index.read(0, 1))


def test_no_such_file(folder):
    with pytest.raises(InputError, match="nowhere: no such file"):
        index_lines(folder / "nowhere", folder / "unpacked")

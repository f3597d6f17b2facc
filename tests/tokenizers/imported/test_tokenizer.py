"""CTM files and TextGrids as others write them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.tokenizers.imported.files import CtmFile, read_textgrid
from nemo_speechlm.tokenizers.imported.frames import whole_frames
from nemo_speechlm.tokenizers.imported.tokenizer import ImportedTokenizing
from nemo_speechlm.tokenizers.speech import SpeechInput

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.0
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 1.0
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.2
            text = ""
        intervals [2]:
            xmin = 0.2
            xmax = 0.6
            text = "say ""2"" [3]"
        intervals [3]:
            xmin = 0.6
            xmax = 1.0
            text = "a"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.0
        points: size = 1
        points [1]:
            number = 0.5
            mark = "7"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 1.0
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.2
            text = ""
        intervals [2]:
            xmin = 0.2
            xmax = 0.405
            text = "S"
        intervals [3]:
            xmin = 0.405
            xmax = 0.6
            text = "EY1"
        intervals [4]:
            xmin = 0.6
            xmax = 1.0
            text = "AH0"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.0
<exists>
2
"IntervalTier"
"ann - words"
0
1.0
3
0
0.2
""
0.2
0.6
"say"
0.6
1.0
"a"
"IntervalTier"
"ann - phones"
0
1.0
4
0
0.2
""
0.2
0.405
"S"
0.405
0.6
"EY1"
0.6
1.0
"AH0"
"""
CTM = """;; made by hand
u1 1 0.000 0.200 SIL
u1 1 0.200 0.205 S_B 0.9
u1 1 0.405 0.195 EY1_E
u1 1 0.600 0.370 AH0_S

u2 1 0.00 0.10 SIL
u2 1 0.30 0.70 S_S
"""


def utterance(name, seconds=1.0):
    return SpeechInput(np.zeros(int(16000 * seconds), dtype=np.float32), None, {"audio_filepath": f"x/{name}.flac"})


def tokenize(path, name, seconds=1.0, **settings):
    found = ImportedTokenizing(str(path), **settings).make().tokenize(utterance(name, seconds))
    return list(zip(found.units, found.durations, strict=True))


EXPECTED = [("SIL", 20), ("S_B", 20), ("EY1_E", 20), ("AH0_S", 40)]


@pytest.fixture
def ctm(tmp_path):
    (tmp_path / "a.ctm").write_text(CTM)
    return tmp_path / "a.ctm"


@pytest.mark.parametrize(
    ("text", "encoding"), [(LONG, "utf-8"), (SHORT, "utf-8"), (LONG, "utf-16"), (SHORT, "utf-8-sig")]
)
def test_textgrids(tmp_path, text, encoding):
    (tmp_path / "speaker").mkdir()
    (tmp_path / "speaker" / "u1.TextGrid").write_text(text, encoding=encoding)
    assert tokenize(tmp_path, "u1") == EXPECTED
    plain = [(unit.split("_")[0].rstrip("01"), frames) for unit, frames in EXPECTED]
    assert tokenize(tmp_path, "u1", style="plain") == plain
    as_is = ImportedTokenizing(str(tmp_path), style="as_is")
    assert as_is.inventory().symbols == ("SIL", "AH0", "EY1", "S")
    assert tokenize(tmp_path, "u1", style="as_is")[2] == ("EY1", 20)


def test_textgrids_behind_links(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "u1.TextGrid").write_text(LONG)
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "speaker").symlink_to(tmp_path / "disk")
    assert tokenize(tmp_path / "all", "u1") == EXPECTED


def test_labels_may_look_like_anything(tmp_path):
    (tmp_path / "u.TextGrid").write_text(LONG)
    tiers = read_textgrid(tmp_path / "u.TextGrid")
    assert [interval.label for interval in tiers["words"]] == ["", 'say "2" [3]', "a"]
    assert list(tiers) == ["words", "phones"]


def test_tiers_of_one_name_are_told_apart(tmp_path):
    (tmp_path / "u1.TextGrid").write_text(LONG.replace('"words"', '"phones"'))
    with pytest.raises(InputError, match=r"no tier 'phones'; it has 'phones \(1\)', 'phones \(2\)' \(option tier\)"):
        tokenize(tmp_path, "u1")
    assert tokenize(tmp_path, "u1", tier="phones (2)", style="as_is")[2] == ("EY1", 20)


def test_ctm(ctm):
    assert tokenize(ctm, "u1") == EXPECTED
    store = CtmFile(ctm)
    assert len(store) == 2
    assert store.labels() == {"SIL", "S_B", "EY1_E", "AH0_S", "S_S"}
    assert [interval.line for interval in store.intervals("u2")] == [7, 8]


def test_a_map_and_gaps(ctm, tmp_path):
    (tmp_path / "map.txt").write_text("S_S Z_S\n")
    with pytest.raises(InputError, match=r"a\.ctm: nothing from 0\.100 to 0\.300 s; gaps=silence takes"):
        tokenize(ctm, "u2")
    found = tokenize(ctm, "u2", gaps="silence", phone_map=str(tmp_path / "map.txt"))
    assert found == [("SIL", 30), ("Z_S", 70)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 1 0.0 0.5 S_B\nu1 1 0.4 0.6 S_E\n", r"'S_E' at 0\.400 s \(line 2\) overlaps with what ends at 0\.500 s"),
        ("u1 1 0.0 1.0 Q_B\n", r"'Q_B' at 0\.000 s is not a phone of style=position_stress"),
        ("u1 1 0.0 1.0 S\n", "no words from which its position would be known"),
        ("u1 1 0.0 0.5 S_S\n", r"nothing from 0\.500 to 1\.000 s"),
        ("u1 1 0.0 1.5 S_S\n", r"it ends at 1\.500 s, the audio at 1\.000 s; do they belong together\?"),
        ("u1 1 0.0 x S_S\n", r"a\.ctm:1: expected seconds, found 'x'"),
        ("u1 1 0.0 1.0\n", r"a\.ctm:1: expected an utterance, a channel, a start, a duration and a phone"),
        ("u1 1 0 1 S_S\nu2 1 0 1 S_S\nu1 1 1 1 S_S\n", r"a\.ctm:3: utterance 'u1' goes on after others"),
        ("\n", "no alignments in it"),
    ],
)
def test_what_is_wrong_in_a_ctm(tmp_path, text, message):
    (tmp_path / "a.ctm").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        tokenize(tmp_path / "a.ctm", "u1")
    assert str(tmp_path / "a.ctm") in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("words", "not a TextGrid in text format"),
        (LONG[:700], "cut off"),
        (LONG.replace('"phones"', '"sounds"'), "no tier 'phones'; it has 'words', 'sounds'"),
        (LONG.replace('"EY1"', '"spn"'), "'spn' at 0.405 s is not a phone"),
        (LONG.replace('text = "a"', 'text = ""'), "'AH0' at 0.600 s is in no word"),
    ],
)
def test_what_is_wrong_in_a_textgrid(tmp_path, text, message):
    (tmp_path / "u1.TextGrid").write_text(text)
    with pytest.raises(InputError) as caught:
        tokenize(tmp_path, "u1")
    assert message in str(caught.value)
    assert "u1.TextGrid" in str(caught.value)


def test_what_is_missing(ctm, tmp_path):
    with pytest.raises(SkipItem, match="no alignment of 'u9'"):
        tokenize(ctm, "u9")
    with pytest.raises(InputError, match="no such CTM file"):
        tokenize(tmp_path / "none.ctm", "u1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.TextGrid files in it"):
        tokenize(tmp_path / "empty", "u1")
    with pytest.raises(InputError, match="no key 'id'"):
        tokenize(ctm, "u1", utterance_key="id")
    with pytest.raises(InputError, match="language=ru needs style=as_is"):
        ImportedTokenizing(str(ctm), language="ru")


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=20), st.integers(0, 3))
def test_whole_frames(lengths, more):
    ends = np.cumsum(lengths).tolist()
    frames = round(ends[-1] * 100) + more
    if len(ends) > frames:
        with pytest.raises(SkipItem):
            whole_frames(ends, frames)
        return
    durations = whole_frames(ends, frames)
    assert sum(durations) == frames
    assert min(durations) >= 1
    if all(length >= 0.0101 for length in lengths):  # nothing has to give way: all bounds are the nearest
        bounds = np.cumsum(durations)[:-1]
        assert bounds.tolist() == pytest.approx([100 * end for end in ends[:-1]], abs=1.01)

from itertools import pairwise

import pytest

from nemo_speechlm.decoding.times import TimedWord
from nemo_speechlm.inference.subtitles import make_cues, to_srt


def words(count, step=0.4, text="word"):
    return [TimedWord(f"{text}{i}", i * step, i * step + 0.3, 0.9) for i in range(count)]


def test_cues_are_short_and_hold_every_word():
    cues = make_cues(words(60))
    assert all(cue.end - cue.start <= 6.0 for cue in cues)
    assert all(len(line) <= 42 for cue in cues for line in cue.text.split("\n"))
    assert all(cue.text.count("\n") <= 1 for cue in cues)
    assert " ".join(cue.text for cue in cues).split() == [w.text for w in words(60)]
    assert all(one.end <= other.start for one, other in pairwise(cues))


def test_a_passage_with_one_time_for_its_words():
    text = " ".join(f"word{i}" for i in range(10, 80))
    cues = make_cues([TimedWord(text, 30.0, 58.0, 1.0), TimedWord("the end", 60.0, 61.0, 1.0)])
    assert all(cue.end - cue.start <= 6.0 for cue in cues)
    assert all(len(line) <= 42 for cue in cues for line in cue.text.split("\n"))
    assert " ".join(cue.text for cue in cues).split() == [*text.split(), "the", "end"]
    assert (cues[0].start, cues[-2].end) == (30.0, pytest.approx(58.0))
    assert cues[-1] == (60.0, 61.0, "the end")


def test_a_pause_ends_a_cue():
    said = [*words(2), TimedWord("later", 5.0, 5.3, 0.9)]
    assert [cue.text for cue in make_cues(said)] == ["word0 word1", "later"]
    long_word = [TimedWord("x" * 60, 0.0, 1.0, 1.0)]
    assert [cue.text for cue in make_cues(long_word)] == ["x" * 60]


def test_the_format():
    said = [TimedWord("hello", 3723.0456, 3723.5, 0.9)]
    assert to_srt(make_cues(said)) == "1\n01:02:03,046 --> 01:02:03,500\nhello\n"
    assert to_srt([]) == ""

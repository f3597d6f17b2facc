"""Voices of Festival into listings."""

import json

import pytest

from nemo_speechlm.data.corpora.festvox import list_festvox
from nemo_speechlm.errors import InputError
from tests.data.corpora.tiny import audio, lines


@pytest.fixture
def voice(tmp_path):
    folder = tmp_path / "voices" / "russian" / "msu_ru"
    lines(folder / "etc" / "txt.done.data", '( ru_0002 "Прядь вол+ос, - \\"да\\"?" )', '(ru_0001 "Один + два" )')
    for name in ("ru_0001", "ru_0002"):
        audio(folder / "wav" / f"{name}.wav", 0.1)
    return folder


def listed(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_sentences_and_recordings(voice, tmp_path):
    for source in (voice, tmp_path / "voices"):
        assert list_festvox(source, tmp_path / "listing") == []
        assert listed(tmp_path / "listing") == [
            {
                "audio_filepath": str(voice / "wav" / "ru_0002.wav"),
                "speaker": "msu_ru",
                "text": 'Прядь волос, - "да"?',
            },
            {"audio_filepath": str(voice / "wav" / "ru_0001.wav"), "speaker": "msu_ru", "text": "Один + два"},
        ]


def test_recordings_without_a_sentence_are_counted(voice, tmp_path):
    audio(voice / "wav" / "ru_0003.wav", 0.1)
    assert list_festvox(voice, tmp_path / "listing") == [
        "1 recordings have no sentence and are left out, ru_0003 the first"
    ]


def test_what_is_no_voice(voice, tmp_path):
    other = voice.parent / "other" / "etc" / "txt.done.data"
    lines(other, '( a "b" )', "( a b )")
    with pytest.raises(InputError, match=r"expected one voice in it.*msu_ru.*other"):
        list_festvox(tmp_path / "voices", tmp_path / "listing")
    with pytest.raises(InputError, match=r'txt.done.data.*2.*expected \( name "sentence" \), found .*a b'):
        list_festvox(voice.parent / "other", tmp_path / "listing")
    lines(other, '( a "b" )', '( a "c" )')
    with pytest.raises(InputError, match="a second line of 'a'"):
        list_festvox(voice.parent / "other", tmp_path / "listing")
    for wrong, message in ((voice / "wav", "there are: none"), (voice / "gone", "no such folder")):
        with pytest.raises(InputError, match=message):
            list_festvox(wrong, tmp_path / "listing")
    assert not (tmp_path / "listing").exists()

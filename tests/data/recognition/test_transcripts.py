import json

import pytest

from nemo_speechlm.data.recognition.transcripts import check_transcripts
from nemo_speechlm.data.text.characters import CharacterEncoder
from nemo_speechlm.errors import InputError
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels


@pytest.fixture
def encoder():
    return CharacterEncoder(tiny_labels())


def manifest_of(tmp_path, *records):
    path = tmp_path / "m.json"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_encodes_positions_of_labels(encoder):
    assert encoder("  ab   a ") == [1, 2, 0, 1]
    assert encoder("") == []


def test_unknown_characters_do_not_vanish(encoder):
    with pytest.raises(InputError, match=r"m.json:7: 'x' \(U\+0078\) in 'a x' is not among the 12 labels"):
        encoder("a x", "m.json", 7)
    with pytest.raises(InputError, match="the labels have 'a': change the case"):
        encoder("A")


@pytest.mark.parametrize(
    ("labels", "message"), [(["a", "a"], "'a' twice"), (["ab"], "single characters"), ([], "labels is empty")]
)
def test_bad_labels(labels, message):
    with pytest.raises(InputError, match=message):
        CharacterEncoder(labels)


def test_statistics(tmp_path, encoder):
    corpus = tiny_corpus(tmp_path, n_speech=4)
    durations = [json.loads(line)["duration"] for line in corpus.speech.read_text().splitlines()]
    statistics = check_transcripts(corpus.speech, encoder, max_duration=sorted(durations)[2])
    assert (statistics.utterances, statistics.left_out) == (3, 1)
    assert statistics.frame_rates.shape == (3,)
    assert statistics.hours == pytest.approx(sum(sorted(durations)[:3]) / 3600, rel=1e-3)
    with pytest.raises(InputError, match="none of its utterances lasts"):
        check_transcripts(corpus.speech, encoder, min_duration=60.0)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"audio_filepath": "no.wav", "duration": 1.0, "text": "a"}, r"m.json:2: audio file .*no.wav cannot be read"),
        ({"audio_filepath": "empty.wav", "duration": 1.0, "text": "a"}, r"m.json:2: audio file .* is empty"),
        ({"audio_filepath": "a.wav", "duration": 1.0}, "m.json:2: no key 'text'"),
        ({"audio_filepath": "a.wav", "duration": -1, "text": "a"}, "m.json:2: 'duration' is -1"),
        ({"audio_filepath": "a.wav", "duration": 1.0, "text": None}, "m.json:2: 'text' is None"),
        ({"audio_filepath": "a.wav", "duration": 1.0, "text": "q"}, "m.json:2: 'q'"),
    ],
)
def test_bad_lines(tmp_path, encoder, record, message):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "empty.wav").touch()
    good = {"audio_filepath": "a.wav", "duration": 1.0, "text": "a b"}
    with pytest.raises(InputError, match=message):
        check_transcripts(manifest_of(tmp_path, good, record), encoder)


def test_special_symbols_of_converted_models_spell_nothing():
    encoder = CharacterEncoder([" ", "a", "<unk>"])
    assert encoder("a a") == [1, 0, 1]
    with pytest.raises(InputError, match="'<'"):
        encoder("<unk>")

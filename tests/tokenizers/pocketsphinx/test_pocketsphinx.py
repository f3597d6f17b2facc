"""Alignment and decoding of speech that espeak-ng speaks, and of real speech where there is some."""

import json
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.errors import InputError, SkipItem
from nemo_speechlm.language_models.arpa import arpa_words
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.tokenizers.jobs.several import for_each
from nemo_speechlm.tokenizers.pocketsphinx.align import PhoneAligner, UnitSegment, _grammar, _is_path, fit_frames
from nemo_speechlm.tokenizers.pocketsphinx.decode import (
    LanguageModel,
    SpeechDecoder,
    make_language_model,
    write_dictionary,
)
from nemo_speechlm.tokenizers.pocketsphinx.tokenizer import SphinxTokenizing
from nemo_speechlm.units.phones import base_phone, phoneme_inventory, word_units
from tests.golden import DATA

SENTENCE = "the old farmer reads a letter"
TEXT = [SENTENCE, "a young doctor finds the key", "the old doctor reads a book", "a farmer finds the old letter"]
PAUSE = np.zeros(8000, dtype=np.float32)


@pytest.fixture(scope="module")
def phonemizer():
    return EnglishPhonemizer()


@pytest.fixture(scope="module")
def aligner(phonemizer):
    return PhoneAligner("position_stress", phonemizer)


@pytest.fixture(scope="module")
def speech():
    pytest.importorskip("espeakng_loader")
    from nemo_speechlm.data.corpora.demo.espeak import Voice, espeak

    spoken = espeak().speak(SENTENCE, Voice("en-us+m3", rate=140, pitch=45, range=50), seed=0)
    noise = 1e-3 * np.random.default_rng(0).standard_normal(16000 * 4)
    samples = np.concatenate([PAUSE, soxr.resample(spoken, espeak().sample_rate, 16000), PAUSE])
    return (samples + noise[: len(samples)]).astype(np.float32)


def words_of(segments):
    """The units of each word."""
    words, word = [], []
    for unit, _ in segments:
        if unit != "SIL":
            word.append(unit)
            if unit.endswith(("_E", "_S")):
                words.append(word)
                word = []
    return words


def test_every_word_is_aligned_with_one_of_its_pronunciations(aligner, phonemizer, speech):
    segments = aligner.align(speech, SENTENCE.split())
    assert sum(s.frames for s in segments) == round(len(speech) / 160)
    assert {s.unit for s in segments} <= set(phoneme_inventory().symbols)
    found = words_of(segments)
    for word, units in zip(SENTENCE.split(), found, strict=True):
        assert units in [word_units(p) for p in phonemizer.pronunciations(word)]


def test_silence_is_found_where_there_is_none_to_hear(aligner, speech):
    segments = aligner.align(speech, SENTENCE.split())
    assert segments[0].unit == segments[-1].unit == "SIL"
    assert abs(segments[0].frames - 50) < 10
    longer = aligner.align(np.concatenate([speech[:8000], speech[:8000], speech]), SENTENCE.split())
    assert abs(longer[0].frames - segments[0].frames - 100) < 10


def test_plain_units_are_the_same_phones(aligner, phonemizer, speech):
    plain = PhoneAligner("plain", phonemizer).align(speech, SENTENCE.split())
    assert [(base_phone(unit), frames) for unit, frames in aligner.align(speech, SENTENCE.split())] == plain


def test_other_utterances_change_nothing(aligner, phonemizer, model, speech):
    louder = np.clip(speech * 3 + 0.01 * np.random.default_rng(1).standard_normal(len(speech)), -1, 1)
    alone = PhoneAligner("position_stress", phonemizer).align(speech, SENTENCE.split())
    decoder = SpeechDecoder(model)
    heard = decoder.decode(speech)
    aligner.align(louder, SENTENCE.split())
    decoder.decode(louder)
    assert aligner.align(speech, SENTENCE.split()) == alone
    assert decoder.decode(speech) == heard


def test_unknown_words_are_predicted(aligner, speech):
    assert aligner.align(speech, "the old farmer reads a blettorque".split())


@pytest.mark.parametrize(
    ("seconds", "words", "message"),
    [(1.0, [], "no words"), (0.2, ["extraordinary"], "too short"), (0.0, ["a"], "too short")],
)
def test_what_cannot_be_aligned_is_left_out(aligner, seconds, words, message):
    with pytest.raises(SkipItem, match=message):
        aligner.align(np.zeros(int(16000 * seconds), dtype=np.float32), words)


def test_digits_are_bad_input(aligner):
    with pytest.raises(InputError, match="digits"):
        aligner.align(np.zeros(16000, dtype=np.float32), ["1912"])


def test_grammar_has_every_pronunciation():
    variants = [[["A_S"], ["B_B", "C_E"]], [["D_S"]]]
    transitions, final = _grammar(variants)

    def paths(state):
        if state == final:
            yield []
        for begin, end, _, *word in transitions:
            if begin == state:
                yield from (word + rest for rest in paths(end))

    found = {tuple(u for u in path if u != "<sil>") for path in paths(0)}
    assert found == {("A_S", "D_S"), ("B_B", "C_E", "D_S")}
    assert max(path.count("<sil>") for path in paths(0)) == 3
    assert all(_is_path([*path], variants) for path in found)


def test_a_part_of_the_words_is_no_path():
    variants = [[["A", "B"], ["A"]], [["B", "C"], ["C"]]]
    assert _is_path(["A", "B", "C"], variants)
    assert not _is_path(["A", "B"], variants)
    assert not _is_path(["A", "B", "C", "C"], variants)


@given(
    st.lists(st.tuples(st.sampled_from(["SIL", "A", "B"]), st.integers(1, 9)), min_size=1, max_size=9),
    st.integers(1, 90),
)
def test_fitted_frames(segments, frames):
    segments = [UnitSegment(*s) for s in segments]
    if frames < len(segments):
        with pytest.raises(SkipItem):
            fit_frames(segments, frames)
        return
    fitted = fit_frames(segments, frames)
    assert sum(s.frames for s in fitted) == frames
    assert all(s.frames > 0 for s in fitted)
    assert [s.unit for s in fitted][: len(segments)] == [s.unit for s in segments]
    assert [s.unit for s in fitted][len(segments) :] in ([], ["SIL"])


@pytest.fixture(scope="module")
def model(tmp_path_factory, phonemizer):
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text.txt").write_text("\n".join([*TEXT, "there are 12 of them", ""]))
    model = LanguageModel(folder / "lm.arpa", folder / "lm.dict")
    count = make_language_model(folder / "text.txt", model.lm, model.dictionary, phonemizer)
    assert count == len({word for line in TEXT for word in line.split()})
    return model


def test_decoding_with_a_language_model_of_a_text(model, speech):
    decoded = SpeechDecoder(model).decode(speech)
    assert " ".join(decoded.words) == SENTENCE
    assert 0.3 < decoded.confidence <= 1


def test_silence_has_no_words(model):
    with pytest.raises(SkipItem, match="no word was heard"):
        SpeechDecoder(model).decode(1e-4 * np.random.default_rng(0).standard_normal(16000).astype(np.float32))


def test_dictionary_has_variants_without_stress(tmp_path, phonemizer):
    write_dictionary(["the", "cat"], tmp_path / "d", phonemizer)
    lines = (tmp_path / "d").read_text().splitlines()
    assert lines[:2] == ["the DH AH", "the(2) DH IY"]
    assert "cat K AE T" in lines


def test_words_of_an_arpa_file(model):
    assert set(arpa_words(model.lm)) == {word for line in TEXT for word in line.split()}


def test_not_a_language_model(tmp_path, model):
    (tmp_path / "x.arpa").write_text("hello\n")
    with pytest.raises(InputError, match="ARPA"):
        arpa_words(tmp_path / "x.arpa")
    with pytest.raises(InputError, match=r"cannot read lm=.*x\.arpa"):
        SpeechDecoder(LanguageModel(tmp_path / "x.arpa", model.dictionary))


def test_a_word_of_a_language_model_that_cannot_be_pronounced(tmp_path):
    (tmp_path / "m.json").write_text('{"audio_filepath": "a.wav"}\n')
    (tmp_path / "lm.arpa").write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-1 the\n-1 r2d2\n\n\\end\\\n")
    tokenizing = SphinxTokenizing(lm=str(tmp_path / "lm.arpa"))
    with pytest.raises(InputError, match=r"lm\.arpa: 'r2d2' has digits in it.*; or give its dictionary"):
        tokenizing.prepared(tmp_path / "m.json", tmp_path / "o.json")


def test_text_without_words(tmp_path, phonemizer):
    (tmp_path / "t.txt").write_text("12\n...\n")
    with pytest.raises(InputError, match=r"t\.txt: no words"):
        make_language_model(tmp_path / "t.txt", tmp_path / "lm", tmp_path / "dict", phonemizer)


@pytest.mark.skipif(not (DATA / "librispeech").is_dir(), reason=f"no {DATA}/librispeech; set NEMO_SPEECHLM_DATA")
def test_real_speech_is_aligned(aligner):
    """All 1,167 transcribed utterances were, at the first beam; these are a few of them."""
    with open(DATA / "librispeech" / "train.json") as file:
        records = [json.loads(line) for line in file][::120]
    for record in records:
        samples = read_audio(DATA / "librispeech" / record["audio_filepath"])
        segments = aligner.align(samples, record["text"].split())
        assert len(words_of(segments)) == len(record["text"].split())
        silent = sum(s.frames for s in segments if s.unit == "SIL") / sum(s.frames for s in segments)
        assert 0.02 < silent < 0.5
        assert np.mean([s.frames for s in segments if s.unit != "SIL"]) < 15


def test_outputs_of_another_lm_text_are_made_again(tmp_path):
    (tmp_path / "lm.txt").write_text("one text\n")
    manifests = [tmp_path / "a.json", tmp_path / "b.json"]
    for manifest in manifests:
        manifest.write_text('{"audio_filepath": "x.wav"}\n')
    tokenizing = SphinxTokenizing(lm_text=str(tmp_path / "lm.txt"))
    begun = []

    def work(source, made):
        begun.append(made)
        if source == str(manifests[1]):
            raise KeyboardInterrupt
        Path(made).write_text("x")
        return made

    def run():
        begun.clear()
        with pytest.raises(KeyboardInterrupt):
            for_each([*map(str, manifests)], f"{tmp_path}/o_{{0..1}}.json", {}, work, tokenizing.files())
        return len(begun)

    assert [run(), run()] == [2, 1]
    (tmp_path / "lm.txt").write_text("another text\n")
    assert run() == 2


def test_a_job_knows_lm_text_by_the_model_made_of_it(tmp_path):
    (tmp_path / "lm.txt").write_text(f"{SENTENCE}\n")
    (tmp_path / "a.json").write_text('{"audio_filepath": "x.wav"}\n')
    tokenizing = SphinxTokenizing(lm_text=str(tmp_path / "lm.txt"))
    assert tokenizing.files() == [str(tmp_path / "lm.txt")]
    prepared = tokenizing.prepared(tmp_path / "a.json", tmp_path / "o.json")
    assert prepared.files() == [f"{tmp_path}/o.json.lm.{ending}" for ending in ("arpa", "dict")]

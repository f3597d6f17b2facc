"""Beam searches against all paths, one by one."""

import itertools
import math
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from nemo.collections.asr.parts.submodules.ctc_batched_beam_decoding import BatchedBeamCTCComputer

from nemo_speechlm.data.text.characters import CharacterEncoder
from nemo_speechlm.decoding.decoders import greedy, make_decoder
from nemo_speechlm.decoding.fusion import (
    FusionDecoder,
    RememberedNGram,
    _batches,
    load_ngram,
    put_labels_beside,
    save_ngram,
)
from nemo_speechlm.decoding.options import Decoded, DecodingOptions
from nemo_speechlm.decoding.tokens import as_lm_tokens, words_of
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.language_models.arpa import ArpaModel
from nemo_speechlm.language_models.kneser_ney import train_ngram_model

LABELS = [" ", "a", "b"]
SENTENCES = ["ab a", "ab b a", "a ab", "b ab", "ab", "ba b a"] * 2


def random_log_probs(frames, seed):
    x = np.random.default_rng(seed).normal(size=(frames, len(LABELS) + 1)) * 1.5
    return (x - np.log(np.exp(x).sum(1, keepdims=True))).astype(np.float32)


def collapse(path):
    return tuple(k for k, _ in itertools.groupby(path) if k != len(LABELS))


def all_sequences(log_probs, combine):
    """Label sequence -> log probability over all its paths."""
    scores = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        sequence = collapse(path)
        scores[sequence] = combine(scores[sequence], sum(log_probs[t, k] for t, k in enumerate(path)))
    return scores


def decode(log_probs, **options):
    options = DecodingOptions(beam_size=200, beam_threshold=1e4, **options)
    decoder = make_decoder(options, LABELS, CharacterEncoder(LABELS))
    done = []
    found = decoder.decode(log_probs, options, done.append)
    assert sum(done) == len(log_probs)
    return found


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "characters.arpa"
    encoder = CharacterEncoder(LABELS)
    train_ngram_model([as_lm_tokens(encoder(s)) for s in SENTENCES], order=3).write_arpa(path, "<unk>")
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "words.arpa.gz"
    train_ngram_model([s.split() for s in SENTENCES], order=2).write_arpa(path, "<unk>")
    return path


def test_greedy():
    for seed in range(5):
        x = random_log_probs(9, seed)
        assert tuple(greedy(x).tokens) == collapse(x.argmax(1))
    assert greedy(np.zeros((0, 4))) == Decoded([], 0.0)


def test_beam_finds_the_best_path():
    inputs = [random_log_probs(frames, seed) for seed, frames in enumerate((4, 5, 3, 5))]
    for x, (tokens, score) in zip(inputs, decode(inputs, kind="beam"), strict=True):
        scores = all_sequences(x, max)  # NeMo's search does not sum the paths of a hypothesis up
        best = max(scores, key=scores.get)
        assert tuple(tokens) == best
        assert score == pytest.approx(scores[best], abs=1e-3)


@pytest.mark.parametrize(("weight", "bonus"), [(0.7, 0.0), (1.5, 1.0), (0.0, -0.5)])
def test_fusion_adds_the_language_model(characters, weight, bonus):
    lm = ArpaModel(characters)
    inputs = [random_log_probs(frames, seed + 10) for seed, frames in enumerate((4, 5, 5))]
    found = decode(inputs, kind="ngram", lm=str(characters), lm_weight=weight, word_score=bonus)
    for x, (tokens, score) in zip(inputs, found, strict=True):
        scores = {
            sequence: total
            + weight * math.log(10) * lm.perplexity([as_lm_tokens(sequence)]).log10
            + bonus * len(sequence)
            for sequence, total in all_sequences(x, max).items()
        }
        assert score == pytest.approx(max(scores.values()), abs=2e-3)
        assert scores[tuple(tokens)] == pytest.approx(max(scores.values()), abs=2e-3)


@pytest.mark.parametrize("kind", ["beam", "ngram"])
def test_an_utterance_does_not_depend_on_its_batch(characters, kind):
    options = DecodingOptions(kind, str(characters) if kind == "ngram" else None, beam_size=3, word_score=0.5)
    decoder = make_decoder(options, LABELS, CharacterEncoder(LABELS))
    inputs = [random_log_probs(frames, seed) for seed, frames in enumerate((5, 40, 13, 28, 3, 40, 17, 9, 11, 22))]
    alone = [decoder.decode([x], options, lambda count: None)[0] for x in inputs]
    assert decoder.decode(inputs, options, lambda count: None) == alone


def needs_flashlight():
    pytest.importorskip(
        "flashlight.lib.text", reason="flashlight-text is not installed; it has no wheel for Python 3.13"
    )


def test_lexicon_without_flashlight(words, monkeypatch):
    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    with pytest.raises(SpeechLMError, match=r"no wheel for Python 3\.13: pip install 'nemo_speechlm\[lm\]'"):
        decode([random_log_probs(6, 20)], kind="lexicon", lm=str(words))


@pytest.mark.parametrize(("weight", "bonus"), [(1.0, 0.0), (2.0, 1.5)])
def test_lexicon_allows_known_words_only(words, weight, bonus):
    needs_flashlight()
    lm = ArpaModel(words)
    inputs = [random_log_probs(6, seed + 20) for seed in range(3)]
    found = decode(inputs, kind="lexicon", lm=str(words), lm_weight=weight, word_score=bonus)
    for x, (tokens, score) in zip(inputs, found, strict=True):
        best, best_score = "", -math.inf
        for sequence, path_score in all_sequences(x, max).items():
            text = "".join(LABELS[i] for i in sequence)
            sentence = text.split()
            if not sentence or any(word not in lm for word in sentence):
                continue
            # KenLM counts in log10, and so does flashlight
            total = path_score + weight * lm.perplexity([sentence]).log10 + bonus * len(sentence)
            if total > best_score:
                best, best_score = " ".join(sentence), total
        assert words_of(LABELS, tokens) == best
        assert score == pytest.approx(best_score, abs=2e-3)


def test_lexicon_without_a_space_among_the_labels(tmp_path):
    """As in Chinese: the first label is one like the others."""
    needs_flashlight()
    labels, sentences = ["a", "b", "c"], [["ab", "c"], ["ca", "ab"], ["c", "ba"]]
    train_ngram_model(sentences, order=2).write_arpa(tmp_path / "words.arpa", "<unk>")
    options = DecodingOptions("lexicon", str(tmp_path / "words.arpa"), beam_size=50)
    decoder = make_decoder(options, labels, CharacterEncoder(labels))
    for sentence in sentences:
        said = [labels.index(label) for word in sentence for label in word]
        x = np.full((2 * len(said), 4), -6.0, dtype=np.float32)
        x[np.arange(len(x)), [i for label in said for i in (label, 3)]] = -0.02  # a blank behind each label
        (found,) = decoder.decode([x], options, lambda count: None)
        assert found.tokens == said


def test_lexicon_of_single_words(tmp_path):
    needs_flashlight()
    train_ngram_model([["ab", "b"]], order=1).write_arpa(tmp_path / "1.arpa", "<unk>")
    with pytest.raises(InputError, match=r"1\.arpa: KenLM cannot read it: .*assumes at least a bigram model"):
        decode([random_log_probs(6, 20)], kind="lexicon", lm=str(tmp_path / "1.arpa"))


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_lexicon_of_tokens_that_last_several_frames(tmp_path, frames):
    """The last token of a word, too, with no blank behind it; and two that are equal, with a blank between them."""
    needs_flashlight()
    labels = ["<unk>", "▁a", "▁b", "c"]
    spellings = {"a": [1], "ac": [1, 3], "acc": [1, 3, 3], "b": [2]}
    train_ngram_model([list(spellings), ["b", "a", "acc"], ["b", "ac"]], order=2).write_arpa(tmp_path / "lm", "<unk>")
    options = DecodingOptions("lexicon", str(tmp_path / "lm"), beam_size=100, word_score=0.5)
    decoder = make_decoder(options, labels, spellings.__getitem__)
    lm = ArpaModel(tmp_path / "lm")
    for sentence in (["a"], ["b", "a", "b"], ["ac", "acc", "b"], ["acc", "a", "ac"]):
        said = [label for word in sentence for label in spellings[word]]
        path = [said[0]] * frames
        for before, label in itertools.pairwise(said):
            path += [4] * (before == label) + [label] * frames
        x = np.full((len(path), 5), -6.0, dtype=np.float32)
        x[np.arange(len(path)), path] = -0.02
        (found,) = decoder.decode([x], options, lambda count: None)
        assert words_of(labels, found.tokens) == " ".join(sentence)
        expected = -0.02 * len(path) + lm.perplexity([sentence]).log10 + 0.5 * len(sentence)
        assert found.score == pytest.approx(expected, abs=1e-3)


def test_no_frames(characters):
    assert decode([np.zeros((0, 4), dtype=np.float32)], kind="ngram", lm=str(characters)) == [Decoded([], 0.0)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "viterbi"}, SpeechLMError, "expected one of greedy, beam, ngram, lexicon"),
        ({"kind": "ngram"}, SpeechLMError, "decoding=ngram needs a language model"),
        ({"kind": "greedy", "lm": "x.arpa"}, SpeechLMError, "takes no language model"),
        ({"kind": "ngram", "lm": "nowhere.arpa"}, InputError, r"nowhere\.arpa: no such file"),
        ({"kind": "lexicon", "lm": "nowhere.arpa"}, InputError, r"nowhere\.arpa: no such file"),
    ],
)
def test_options_that_do_not_go_together(options, error, message):
    if options["kind"] == "lexicon":
        needs_flashlight()
    with pytest.raises(error, match=message):
        decode([], **options)


def test_a_model_of_other_labels(words, characters, tmp_path):
    with pytest.raises(InputError, match="is not a language model of the 3 labels"):
        decode([], kind="ngram", lm=str(words))
    (tmp_path / "lm.arpa").write_text("hello\n")
    with pytest.raises(InputError, match="is not a language model of the 3 labels"):
        decode([], kind="ngram", lm=str(tmp_path / "lm.arpa"))
    needs_flashlight()
    with pytest.raises(InputError, match=r"is not a whole ARPA file.*lm\.arpa\.words"):
        decode([], kind="lexicon", lm=str(tmp_path / "lm.arpa"))
    with pytest.raises(InputError, match="none of its words"):
        decode([], kind="lexicon", lm=str(characters))


def test_a_model_of_as_many_other_labels(characters, tmp_path):
    others = [" ", "b", "a"]
    load_ngram(characters, others)  # it does not say what its labels are
    arpa = tmp_path / "lm.arpa"
    arpa.write_bytes(characters.read_bytes())
    put_labels_beside(arpa, LABELS)
    save_ngram(characters, tmp_path / "lm.nemo", LABELS)
    for path in (arpa, tmp_path / "lm.nemo"):
        assert load_ngram(path, LABELS).num_states == load_ngram(characters, LABELS).num_states
        with pytest.raises(InputError, match="number 1 is 'a' there, 'b' in this model; make one"):
            load_ngram(path, others)
    with pytest.raises(InputError, match="of other labels: 3 there, 4 in this model"):
        load_ngram(arpa, [*LABELS, "c"])
    (tmp_path / "lm.arpa.labels").write_text("[")
    with pytest.raises(InputError, match=r"lm.arpa.labels: not JSON .*expected the list of labels of lm.arpa"):
        load_ngram(arpa, LABELS)


def test_what_an_ngram_remembers_is_what_it_computes(characters):
    """Also where there is no room for it, and where it is forgotten on the way."""
    lm = load_ngram(characters, LABELS)
    generator = torch.Generator().manual_seed(0)
    calls = [torch.randint(lm.num_states, (24,), generator=generator) for _ in range(12)]
    assert lm.num_states > 12
    for max_rows in (None, 2, 9, 12):
        remembered = RememberedNGram(lm, max_rows)
        for states in calls:
            for expected, found in zip(lm.advance(states), remembered.advance(states), strict=True):
                assert torch.equal(expected, found)
    asked = []
    remembered = RememberedNGram(SpiedNGram(lm, asked))
    for states in (*calls, *calls):
        remembered.advance(states)
    assert sorted(torch.cat(asked).tolist()) == sorted(torch.cat(calls).unique().tolist())  # each state once
    assert torch.equal(remembered.get_final(calls[0]), lm.get_final(calls[0]))


class SpiedNGram:
    """An n-gram model that writes down which states it is asked for."""

    def __init__(self, lm, asked):
        self.lm, self.asked = lm, asked

    def __getattr__(self, name):
        return getattr(self.lm, name)

    def advance(self, states):
        self.asked.append(states)
        return self.lm.advance(states)


def test_fusion_is_nemos(characters):
    """What is remembered changes no score of NeMo's own search."""
    labels = len(LABELS)
    inputs = [np.log(np.random.default_rng(n).dirichlet(np.ones(labels + 1), 30)).astype(np.float32) for n in range(3)]
    decoder = FusionDecoder(labels, load_ngram(characters, LABELS), "cpu")
    assert isinstance(decoder.lm, RememberedNGram)
    options = DecodingOptions("ngram", str(characters), beam_size=4, lm_weight=0.7, word_score=0.3)
    found = decoder.decode(inputs, options, lambda count: None)
    search = BatchedBeamCTCComputer(
        blank_index=labels, beam_size=4, fusion_models=[load_ngram(characters, LABELS)], fusion_models_alpha=[0.7],
        beam_beta=0.3, beam_threshold=options.beam_threshold, allow_cuda_graphs=False,
    )  # fmt: skip
    expected = search(torch.from_numpy(np.stack(inputs)), torch.full((3,), 30)).to_hyps_list(score_norm=False)
    assert found == [Decoded([int(t) for t in e.y_sequence], float(e.score)) for e in expected]
    assert len({tuple(each.tokens) for each in found}) == 3


def test_words_that_cannot_be_spelled_are_told(tmp_path, capsys):
    needs_flashlight()
    train_ngram_model([["ab", "Ab"], ["b", "äb"]], order=2).write_arpa(tmp_path / "words.arpa", "<unk>")
    labels = ["a", "b", " "]
    make_decoder(DecodingOptions("lexicon", str(tmp_path / "words.arpa")), labels, CharacterEncoder(labels))
    said = capsys.readouterr().err
    assert "words.arpa: 2 of its 4 words cannot be spelled with the labels of this model" in said
    assert "'Ab'" in said


def test_a_batch_has_as_many_frames_as_fit():
    assert _batches([9000, 7000, 8000, 0, 2]) == [[0], [2, 1], [4]]
    assert _batches([20000, 20000]) == [[0], [1]], "an utterance that is longer is a batch by itself"

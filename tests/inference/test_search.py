import pytest
from omegaconf import OmegaConf

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.inference import search
from nemo_speechlm.inference.search import refuse_unused

DEFAULTS = {"beam_size": None, "beam_size_token": None, "beam_threshold": 20, "lm_weight": 1.0, "word_score": 0.0}


def cfg(**given):
    return OmegaConf.create({"decoding": None, **DEFAULTS, **given})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beam_size": 50}, "beam_size=50: without effect on decoding=greedy of a CTC model"),
        ({"decoding": "greedy", "lm_weight": 2, "beam_threshold": 10}, "beam_threshold=10, lm_weight=2: without"),
        ({"decoding": "beam", "lm_weight": 2.0}, "lm_weight=2.0: without effect on decoding=beam"),
        ({"decoding": "ngram", "beam_size_token": 5}, "beam_size_token=5: without effect on decoding=ngram"),
        ({"decoding": "lexicon", "length_penalty": 1.0}, "length_penalty=1.0: without effect on decoding=lexicon"),
    ],
)
def test_what_has_no_effect_is_refused(given, message):
    with pytest.raises(SpeechLMError, match=message):
        refuse_unused(cfg(**given))


def test_what_has_one_is_not():
    refuse_unused(cfg())
    refuse_unused(cfg(decoding="beam", beam_size=5, word_score=1.0))
    refuse_unused(cfg(decoding="lexicon", beam_size=5, word_score=1.0, lm_weight=2.0, beam_size_token=3))


@pytest.mark.parametrize(
    ("attention", "given", "message"),
    [
        (True, {"beam_size": 5, "length_penalty": 0.5}, None),
        (True, {"beam_size": 5, "decoding": "greedy"}, "beam_size=5: .* an attention decoder that decodes greedily"),
        (True, {"word_score": 1.0}, "word_score=1.0: without effect on an attention decoder"),
        (False, {"beam_size": 5}, "beam_size=5: without effect on a transducer's own decoding"),
        (False, {"beam_size": 5, "decoding": "beam"}, None),
    ],
)
def test_other_models(monkeypatch, attention, given, message):
    monkeypatch.setattr(search, "has_attention_decoder", lambda model: attention)
    monkeypatch.setattr(search, "is_ctc", lambda model: False)
    if message is None:
        refuse_unused(cfg(**given), object())
        return
    with pytest.raises(SpeechLMError, match=message):
        refuse_unused(cfg(**given), object())

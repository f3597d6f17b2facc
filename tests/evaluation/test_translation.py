"""Scores of translations, of batches summed and of whole sets."""

import math
import unicodedata

import pytest
import torch
from omegaconf import OmegaConf
from sacrebleu import corpus_bleu, corpus_chrf

from nemo_speechlm.errors import InputError
from nemo_speechlm.evaluation.error_rates import character_errors, word_errors
from nemo_speechlm.evaluation.translation import check_languages, translation_scores
from nemo_speechlm.inference.search import is_translation, set_search
from nemo_speechlm.models import SpeechLMCTCModel
from nemo_speechlm.models.common.text_counts import SIZE, bleu_score, error_rates, text_counts
from nemo_speechlm.testing.configs import tiny_architecture

REFERENCES = ["The cat sat on the mat, again.", "What is this?", "", "Nobody would come here, would they?"]
HYPOTHESES = ["The cat sat on a mat, again.", "What was this?", "Oh", "Nobody would come, would they?"]


def test_scores_and_signatures():
    scores = translation_scores(HYPOTHESES, REFERENCES)
    assert scores["bleu"] == round(corpus_bleu(HYPOTHESES, [REFERENCES]).score, 2)
    assert 30 < scores["bleu"] < 70
    assert scores["chrf"] == round(corpus_chrf(HYPOTHESES, [REFERENCES]).score, 2)
    assert scores["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "nc:6|nw:0" in scores["chrf_signature"]
    assert "tok:zh" in translation_scores(["你好吗"], ["你好"], "zh")["bleu_signature"]


def test_letters_are_the_same_however_they_are_composed():
    text = ["příliš žluťoučký kůň úpěl"]
    assert translation_scores(text, [unicodedata.normalize("NFD", text[0])])["bleu"] == pytest.approx(100)


def test_scores_of_nothing_are_undefined():
    scores = translation_scores(["", "Oh"], ["", " "])
    assert (scores["bleu"], scores["chrf"]) == (None, None)
    assert all(math.isnan(rate) for rate in error_rates(text_counts(["", ""], ["", "Oh"])).values())


def test_counts_of_batches_sum_up():
    counts = text_counts(REFERENCES[:1], HYPOTHESES[:1]) + text_counts(REFERENCES[1:], HYPOTHESES[1:])
    assert counts.shape == (SIZE,)
    assert bleu_score(counts) == pytest.approx(corpus_bleu(HYPOTHESES, [REFERENCES]).score)
    rates = error_rates(counts.float())
    for name, count in (("wer", word_errors), ("cer", character_errors)):
        found = [count(r, h) for r, h in zip(REFERENCES, HYPOTHESES, strict=True)]
        assert rates[name] == pytest.approx(sum(c.errors for c in found) / sum(c.length for c in found))
    assert bleu_score(torch.zeros(SIZE)) == 0


@pytest.mark.parametrize(
    ("language", "text", "near"),
    [
        ("zh", "我们明天早上去学校。", "我们明天早上去学校了。"),
        ("zh-CN", "我们明天早上去学校。", "我们明天早上去学校了。"),
        ("ja", "私たちは明日学校へ行きます。", "私たちは明日学校に行きます。"),
        ("ko", "우리는 내일 학교에 갑니다.", "우리는 내일 학교에 간다."),
        ("th", "พรุ่งนี้เราจะไปโรงเรียน", "พรุ่งนี้เราไปโรงเรียน"),
        ("de", "Wir gehen morgen früh in die Schule.", "Wir gehen morgen in die Schule."),
    ],
)
def test_validation_cuts_text_as_evaluation_does(language, text, near):
    for hypothesis in (text, near):
        told = translation_scores([hypothesis], [text], language)["bleu"]
        assert bleu_score(text_counts([text], [hypothesis], language)) == pytest.approx(told, abs=0.005)
        assert told == pytest.approx(100) if hypothesis == text else 20 < told < 100


@pytest.fixture(scope="module")
def ctc():
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    return SpeechLMCTCModel(OmegaConf.create({**tiny_architecture(), "labels": ["a"], "decoder": head}))


def test_only_attention_decoders_have_a_search(ctc):
    assert not is_translation(ctc)
    set_search(ctc, beam_size=None)
    with pytest.raises(InputError, match="length_penalty: SpeechLMCTCModel has no attention decoder"):
        set_search(ctc, length_penalty=1.0)
    check_languages(ctc, [{"target_lang": "en"}], "m.json")

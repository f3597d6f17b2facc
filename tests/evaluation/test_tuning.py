from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nemo_speechlm.data.audio.tar_members import TarAudio
from nemo_speechlm.decoding.options import DecodingOptions
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.evaluation.tuning import Trial, best_trial, on_the_edge, refuse_tested, tune, write_trials
from nemo_speechlm.inference.audio_batches import Utterance


class Text:
    """Stands for a decoder: right where both weights are 1, one word wrong for each step away from that."""

    def decode(self, log_probs, options, quiet=False):
        wrong = round(abs(options.lm_weight - 1) + abs(options.word_score - 1))
        return [SimpleNamespace(text=" ".join(["x"] * wrong + ["a"] * (4 - wrong))) for _ in log_probs]

    def text(self, decoded):
        return decoded.text


LEXICON = DecodingOptions("lexicon", "words.arpa")


def tuned(lm_weights, word_scores):
    return tune(Text(), [np.zeros((2, 3))] * 3, ["a a a a"] * 3, LEXICON, lm_weights, word_scores)


def test_the_best_pair(tmp_path):
    trials = tuned([0, 1, 2], [0, 1])
    assert len(trials) == 6
    best = best_trial(trials)
    assert (best.lm_weight, best.word_score, best.rate("wer")) == (1, 1, 0.0)
    assert best_trial(trials[:2]).rate("wer") == 0.25
    write_trials(tmp_path / "tuning.csv", trials[:2])
    assert (tmp_path / "tuning.csv").read_text().splitlines() == [
        "lm_weight,word_score,wer,cer", "0,0,0.50000,0.28571", "0,1,0.25000,0.14286",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("best", "remark"),
    [
        ((1, 1), ""),
        ((0, 1), "lm_weight=0 is the least that was tried; others"),
        ((2, 2), "lm_weight=2 is the greatest that was tried and word_score=2 is the greatest that was tried; others"),
    ],
)
def test_a_pair_on_the_edge_is_remarked(best, remark):
    counts = ErrorCounts()
    assert on_the_edge(Trial(*best, counts, counts), [0, 1, 2], [0, 1, 2]).startswith(remark)
    assert not on_the_edge(Trial(*best, counts, counts), [best[0]], [best[1]])  # one alone is what was asked for


def test_nothing_to_tune():
    with pytest.raises(SpeechLMError, match="no reference has a word"):
        tune(Text(), [np.zeros((2, 3))], [" "], LEXICON, [1], [1])
    with pytest.raises(SpeechLMError, match="decoding=beam has no weights to tune"):
        tune(Text(), [], ["a"], DecodingOptions("beam"), [1], [1])


def utterance(path, offset=0.0, duration=1.0):
    return Utterance({}, Path(path), offset, duration, "a")


def test_weights_are_not_chosen_on_what_is_tested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tested = [utterance("a.wav"), utterance("b.wav", 2.0)]
    refuse_tested([utterance("c.wav"), utterance("b.wav")], tested, "valid.json")
    with pytest.raises(InputError, match=r"^valid.json: 1 of its 2 utterances are in manifest, too"):
        refuse_tested([utterance("c.wav"), utterance(tmp_path / "b.wav", 2.0)], tested, "valid.json")


@pytest.mark.parametrize(
    ("offset", "duration", "shared"), [(0.0, 9.0, 1), (2.5, 3.0, 1), (3.0, 1.0, 0), (1.0, 1.0, 0)]
)
def test_parts_of_what_is_tested_are_tested(offset, duration, shared):
    held_out, tested = [utterance("a.wav", offset, duration)], [utterance("a.wav", 2.0)]
    with pytest.raises(InputError) if shared else nullcontext():
        refuse_tested(held_out, tested, "valid.json")


def test_a_recording_in_a_tar_is_known_by_any_of_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tested, same, other = (
        Utterance({}, TarAudio(path, name, span), 0.0, 1.0, "a")
        for path, name, span in (
            ("audio_0.tar", "a.wav", None),
            (f"{tmp_path}/audio_0.tar", "a.wav", (0, 1024)),
            ("audio_0.tar", "b.wav", None),
        )
    )
    refuse_tested([other], [tested], "valid.json")
    with pytest.raises(InputError, match="1 of its 1 utterances are in manifest, too"):
        refuse_tested([same], [tested], "valid.json")

"""Data that a model cannot hold are told of before training begins."""

from types import SimpleNamespace

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from nemo_speechlm.data.recognition.transcripts import TranscriptStatistics, check_transcripts
from nemo_speechlm.data.text.characters import CharacterEncoder
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models.common.limits import check_data_fit, longest_audio
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_labels


def model_with(*manifests, position="learned"):
    config = tiny_architecture()
    config["encoder"]["shared_transformer"]["position"] = position
    loader = SimpleNamespace(statistics=manifests)
    return SimpleNamespace(
        cfg=OmegaConf.create(config), encoder=instantiate(config["encoder"]), _train_dl=loader, _validation_dl=None
    )


def test_long_audio_and_long_text(tmp_path):
    corpus = tiny_corpus(tmp_path)
    found = check_transcripts(corpus.speech, CharacterEncoder(tiny_labels()))
    assert 1 < found.longest_audio < 4
    assert 5 < found.longest_text < 40
    check_data_fit(model_with(found), found.longest_text)
    with pytest.raises(SpeechLMError, match=r"model.train_ds has a text of \d+ .*model.decoder.max_length"):
        check_data_fit(model_with(found), found.longest_text - 1)
    long = TranscriptStatistics(1, 1.0, 1, 0, np.zeros(1), longest_audio=20.0)
    with pytest.raises(SpeechLMError, match=r"an utterance of 20.0 s; .* 19.98 s.*model.train_ds.max_duration=19"):
        check_data_fit(model_with(found, long))
    check_data_fit(model_with(long, position=None))
    near = TranscriptStatistics(1, 1.0, 1, 0, np.zeros(1), longest_audio=18.1)
    slowed, fast = model_with(near), model_with(near)
    slowed.cfg.train_ds, fast.cfg.train_ds = {"speeds": [0.9, 1.1]}, {"speeds": [1.0, 1.1]}
    with pytest.raises(SpeechLMError, match=r"18.1 s, played at a speed of 0.9 .*speeds.*max_duration=17"):
        check_data_fit(slowed)
    check_data_fit(fast)
    with pytest.raises(SpeechLMError, match=r"18.1 s, played at a speed of 0.9"):
        check_data_fit(model_with(near), speeds=[0.9, 1.1])  # a transducer's config does not tell them
    check_data_fit(model_with(near), speeds=[1.0, 1.1])


def test_the_longest_audio_fits():
    model = model_with()
    assert longest_audio(model) == pytest.approx(19.98)  # 1,000 positions at 50 a second, less one for rounding

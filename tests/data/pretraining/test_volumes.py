"""Speech at another volume: the same samples times a factor that the seed and the pass decide."""

from itertools import islice

import numpy as np
import pytest

from nemo_speechlm.data.pretraining.chapters import Order
from nemo_speechlm.data.pretraining.config import read_config
from nemo_speechlm.data.pretraining.speech_reader import SpeechReader
from nemo_speechlm.data.pretraining.streams import SpeechStream
from nemo_speechlm.data.pretraining.utterance_audio import audio_and_units
from nemo_speechlm.data.recognition.loader import build_recognition_dataloader
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.testing.corpora import tiny_corpus, tiny_inventory, tiny_labels


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=3, n_text=1)


def cuts(corpus, number, seed=0, **options):
    return list(islice(SpeechReader([str(corpus.speech)], tiny_inventory(), Order(seed=seed), **options), number))


def test_samples_are_multiplied_and_units_stay(corpus):
    factors = []
    pairs = zip(cuts(corpus, 60), cuts(corpus, 60, volumes=[0.5, 2.0]), strict=True)
    for plain, changed in pairs:
        (audio, units), (louder, same) = (audio_and_units(cut, tiny_inventory(), 16000) for cut in (plain, changed))
        factors.append(changed.custom["volume"])
        np.testing.assert_allclose(louder, audio * np.float32(factors[-1]), rtol=1e-6)
        assert np.array_equal(units, same)
        assert plain.duration == changed.duration
    assert 0.5 <= min(factors) < 0.6
    assert 1.7 < max(factors) <= 2.0
    assert len(set(factors)) == 60
    assert abs(np.log(factors).mean()) < 0.2  # evenly in dB


def test_the_seed_alone_decides(corpus):
    def drawn(seed):
        return [cut.custom["volume"] for cut in cuts(corpus, 9, seed, volumes=[0.1, 10.0])]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize("volumes", [0.5, [], "ab", [1.0], [0.0, 1.0], [2.0, 0.5], [True, 2]])
def test_wrong_volumes(corpus, volumes):
    with pytest.raises((InputError, SpeechLMError), match="data config: volumes"):
        cuts(corpus, 1, volumes=volumes)


def test_data_that_others_read_have_no_volumes(corpus):
    part = {"manifest_filepath": [[str(corpus.speech), 0.5]], "batch_size": 1, "volumes": [0.5, 2.0]}
    with pytest.raises(InputError, match=r"speech\.volumes cannot be used, NeMo reads these data"):
        read_config({"speech": part}, [SpeechStream(tiny_inventory())], training=True)
    part = {"manifest_filepath": str(corpus.speech), "batch_size": 1, "volumes": [0.5, 2.0]}
    with pytest.raises(InputError, match="volumes needs data"):
        build_recognition_dataloader(part, tiny_labels())

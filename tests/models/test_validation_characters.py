"""A character that only validation has stops a model at its start, and is told with its place."""

import pytest
from omegaconf import OmegaConf

from nemo_speechlm.data.manifests.lines import read_manifest, write_manifest
from nemo_speechlm.data.recognition.transcripts import check_transcripts
from nemo_speechlm.data.text.target_vocabulary import CharacterVocabulary, survey_targets
from nemo_speechlm.errors import InputError
from nemo_speechlm.models import SpeechLMEncDecModel
from nemo_speechlm.testing import tiny_architecture, tiny_corpus


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """Of training, and of validation with an é in lines 2 and 4."""
    train = tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=5).speech
    records = [record for _, record in read_manifest(train)]
    for place in (1, 3):
        records[place]["text"] += " é"
    valid = train.parent / "valid.json"
    write_manifest(valid, records)
    return train, valid


def test_attention_decoder(manifests):
    train, valid = manifests
    data = {"use_lhotse": True, "batch_size": 2, "num_workers": 0}
    cfg = {
        **tiny_architecture(),
        "decoder": {"_target_": "nemo_speechlm.modules.RelativeDecoder", "n_layers": 1, "d_model": 32, "d_ff": 32},
        "train_ds": {**data, "manifest_filepath": str(train)},
        "validation_ds": {**data, "manifest_filepath": str(valid)},
    }
    told = r"valid\.json:2: 'é' \(U\+00E9\).*training texts.*\(2 lines like this: 2, 4\)"
    with pytest.raises(InputError, match=told):
        SpeechLMEncDecModel(OmegaConf.create(cfg))


def test_all_lines_are_told(manifests):
    train, valid = manifests
    vocabulary = CharacterVocabulary(survey_targets(str(train)).characters)
    with pytest.raises(InputError, match=r"valid\.json:2: .*\(2 lines like this: 2, 4\)"):
        check_transcripts(valid, vocabulary)

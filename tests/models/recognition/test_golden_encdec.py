"""The converted translation model as a user calls it: the released hypotheses."""

import pytest
import soundfile
import torch

from nemo_speechlm.data.manifests.lines import write_manifest
from nemo_speechlm.evaluation.test_sets import read_utterances
from nemo_speechlm.inference.recognition import transcribe
from tests.golden import converted, dictionary_options, load, needs_golden

pytestmark = needs_golden


@pytest.fixture(scope="module")
def outputs():
    return load("speechlm_st_tiny/outputs.pt")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    options = dictionary_options("speechlm_st_tiny", tmp_path_factory.mktemp("dictionary"))
    return converted("speechlm_st_tiny/checkpoint.pt", options)[0]


def test_settings_are_carried(model):
    assert model.cfg.leading_space
    assert model.cfg.task == "translation"
    assert model.cfg.encoder.front_end.released_padding
    assert model.encoder.time_mask.prob == 0.5
    assert model.decoder.layerdrop == 0.1
    assert model.decoder.relative_positions.max_distance == 24


def test_transcribing_each_alone(model, outputs):
    """What a user calls, one utterance after the other: the released single-utterance hypotheses."""
    model.change_decoding_strategy({"beam_size": 5, "length_penalty": 1.0, "max_length": 40})
    waveforms = [outputs["source"][row, :length] for row, length in enumerate(outputs["src_lengths"])]
    found = model.transcribe(waveforms, batch_size=1, verbose=False)
    for row, hypothesis in enumerate(found):
        expected = outputs[f"beam5_single.utt{row}.hyp0.tokens"].tolist()
        if len(waveforms[row]) >= model.cfg.sample_rate:  # NeMo fills shorter arrays up with silence
            assert hypothesis.y_sequence.tolist() == expected
        alone = model.generate(waveforms[row][None], torch.tensor([len(waveforms[row])]))[0][0]
        assert alone.tokens.tolist() == expected
        assert alone.score == pytest.approx(outputs[f"beam5_single.utt{row}.hyp0.score"], rel=1e-5)
        assert hypothesis.text == model.vocabulary.decode(hypothesis.y_sequence.tolist())


def test_evaluation_finds_the_same(model, outputs, tmp_path):
    """A manifest of audio files, through what speechlm_evaluate.py calls."""
    model.change_decoding_strategy({"beam_size": 5, "length_penalty": 1.0, "max_length": 40})
    records = []
    for row, length in enumerate(outputs["src_lengths"]):
        path = tmp_path / f"{row}.wav"
        soundfile.write(path, outputs["source"][row, :length].numpy(), 16000, subtype="FLOAT")
        records.append({"audio_filepath": path.name, "duration": float(length) / 16000, "text": "x"})
    write_manifest(tmp_path / "two.json", records)
    utterances, _ = read_utterances(tmp_path / "two.json")
    assert transcribe(model, utterances, batch_duration=0.1) == [
        model.vocabulary.decode(outputs[f"beam5_single.utt{row}.hyp0.tokens"].tolist()) for row in (0, 1)
    ]
    together = transcribe(model, utterances, batch_duration=10)
    assert together == [model.vocabulary.decode(outputs[f"beam5.utt{row}.hyp0.tokens"].tolist()) for row in (0, 1)]

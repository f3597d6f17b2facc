"""UMLM part by part: which frames are swapped, asked and counted, and what its loss is made of."""

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PretrainBatch, SpeechBatch, TextBatch
from nemo_speechlm.models.common.joint import JointMean
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.models.speechlm.umlm import (
    LEVELS,
    draw_offset,
    heard_units,
    predictions,
    umlm_loss,
    umlm_terms,
    units_of_frames,
)
from nemo_speechlm.modules.draws import RowSeeds
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    corpus = tiny_corpus(tmp_path_factory.mktemp("corpus"), 1, 1)
    return SpeechLMModel(tiny_pretrain_config(corpus, train_ds=None, validation_ds=None)).eval()


def utterance(model, frames, labeled):
    """So many frames of the encoder, of which the first ones have units."""
    ratio = int(model.label_ratio)
    samples = int(16000 * frames / model.encoder.frame_rate) + 400
    units = torch.arange(frames * ratio).unsqueeze(0) % len(model.inventory)
    units[:, labeled * ratio :] = PAD_UNIT
    audio = torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    return SpeechBatch(audio, torch.tensor([samples]), units, torch.tensor([labeled * ratio]))


@torch.no_grad()
def test_frames_without_a_unit_are_not_swapped_and_have_a_penalty(model):
    everywhere = torch.ones(1, 10, dtype=torch.bool)
    output = model.forward_speech(utterance(model, 10, 6), mask=~everywhere, swap=everywhere)
    assert output.swap.tolist() == [[True] * 6 + [False] * 4]
    terms = umlm_terms(output)
    assert [float(part) for part in terms["fraction_swapped"]] == [6, 6]
    assert (output.penalty[0] > 0).all()
    assert int(terms["feature_penalty"][1]) == 10, "the front end's features are those of all frames of the audio"


@torch.no_grad()
def test_swaps_of_a_seed_are_drawn_apart_from_its_masks(model, monkeypatch):
    """Masked frames are not swapped: of the same draws, no frame of a validation would be."""
    monkeypatch.setattr(model, "swapping", model.masking)
    output = model.forward_speech(utterance(model, 200, 200), generator=RowSeeds([3]))
    assert output.mask.any()
    assert output.swap.any()


@torch.no_grad()
def test_an_utterance_with_less_than_a_frame_of_units_has_a_frame(model):
    batch = utterance(model, 10, 1)
    batch.units[:, 1:] = PAD_UNIT
    output = model.forward_speech(batch._replace(unit_lengths=torch.tensor([1])))
    assert (output.units != PAD_UNIT).tolist() == [[True] + [False] * 9]
    assert all(logits[0, 0].isfinite().all() for logits in output.logits)


def test_each_term_has_its_own_weight():
    sums = {"umlm_speech": 1.0, "umlm_shared": 2.0, "feature_penalty": 4.0}
    sums |= {"umlm_unmasked_speech": 8.0, "umlm_unmasked_shared": 16.0}
    means = {name: JointMean(torch.tensor(v), torch.tensor(10 * v), torch.tensor(1)) for name, v in sums.items()}
    weights = OmegaConf.create({"umlm": 0.5, "umlm_unmasked": 0.25, "feature_penalty": 3.0})
    assert [float(part) for part in umlm_loss(means, weights)] == [0.5 * 3 + 0.25 * 24 + 3 * 4, 195.0]
    weights.umlm_unmasked = 0.0
    assert [float(part) for part in umlm_loss(means, weights)] == [0.5 * 3 + 3 * 4, 135.0]


def test_each_unit_of_a_frame_is_its_label_sooner_or_later():
    torch.manual_seed(0)
    for ratio, expected in ((2.0, {0, 1}), (4.0, {0, 1, 2, 3}), (2.5, {0, 1}), (1.0, {0}), (0.5, {0})):
        assert {draw_offset(ratio) for _ in range(60)} == expected


@torch.no_grad()
def test_a_validation_divides_by_the_frames_that_it_counts(model, monkeypatch):
    found = {}
    monkeypatch.setattr(model, "log_mean", lambda name, value, count: found.update({name: (value, count)}))
    batch = utterance(model, 60, 45)
    model.on_validation_epoch_start()
    model.validation_step(PretrainBatch(batch), 0)
    output = model.forward_speech(batch, generator=RowSeeds([0]))
    (masked, unmasked), heard = predictions(output), heard_units(output)
    assert heard["shared"][1] < unmasked["shared"].frames
    assert masked["speech"].frames + unmasked["speech"].frames == 45
    assert masked["speech"].frames != unmasked["speech"].frames
    for level in LEVELS:
        assert found[f"val_umlm_{level}"] == (masked[level].loss, masked[level].frames)
        assert found[f"val_masked_accuracy_{level}"] == (masked[level].correct, masked[level].frames)
        assert found[f"val_unmasked_accuracy_{level}"] == heard[level]


@torch.no_grad()
def test_units_of_swapped_frames_are_not_heard(model):
    batch = utterance(model, 60, 45)
    mask, swap = torch.zeros(2, 1, 60, dtype=torch.bool)
    mask[0, :10], swap[0, 10:30] = True, True
    output = model.forward_speech(batch, mask=mask, swap=swap)
    for level, logits in zip(LEVELS, output.logits, strict=True):
        right = sum(int(logits[0, t].argmax()) == int(output.units[0, t]) for t in range(30, 45))
        assert heard_units(output)[level] == (right, 15)


def test_the_last_unit_goes_on_where_there_are_no_more():
    assert units_of_frames(torch.arange(5).unsqueeze(0), 4, 2.0, 1).tolist() == [[1, 3, 4, 4]]
    assert units_of_frames(torch.arange(3).unsqueeze(0), 4, 1.0, 0).tolist() == [[0, 1, 2, 2]]


@torch.no_grad()
def test_the_character_error_of_a_validation_is_per_character(model, monkeypatch):
    blank, found = len(model.labels), {}
    path = torch.tensor([[1, 2, 3, 4], [1, 1, blank, blank]])
    log_probs = (9.0 * torch.nn.functional.one_hot(path, blank + 1)).log_softmax(2)
    monkeypatch.setattr(model, "forward_text", lambda *_, **__: (log_probs, None))
    monkeypatch.setattr(model, "log_mean", lambda name, value, count: found.update({name: (float(value), int(count))}))
    targets = TextBatch(path, torch.tensor([4, 4]), torch.tensor([[1, 2, 3, 5], [1, 2, 0, 0]]), torch.tensor([4, 2]))
    model.on_validation_epoch_start()
    model.validation_step(PretrainBatch(text=targets), 0)
    assert found["val_text_cer"] == (2, 6), "one character is another, one is lost"
    assert found["val_uctc"][1] == 6 + 2

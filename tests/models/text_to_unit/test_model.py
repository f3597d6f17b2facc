"""TextToUnitModel: its loss, its generation, its training."""

from unittest.mock import patch

import pytest
import torch

from nemo_speechlm.data.phone_units import PairedBatch
from nemo_speechlm.data.pretraining.batch import PAD_UNIT
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models import TextToUnitModel
from nemo_speechlm.testing.configs import tiny_text_to_unit_config
from nemo_speechlm.testing.corpora import tiny_paired_corpus
from nemo_speechlm.testing.trainer import tiny_trainer

SENTENCES = [[0, 3, 5, 2, 0], [4], [1, 2, 3, 4, 5, 6, 7, 8, 9], [0, 7, 0]]


def build(folder, seed=0, **overrides):
    torch.manual_seed(seed)
    model = TextToUnitModel(tiny_text_to_unit_config(folder, **overrides)).eval()
    with torch.no_grad():
        model.duration_predictor.proj.bias.fill_(1.1)  # two frames a phone, instead of none
    return model


@pytest.fixture
def model(tmp_path):
    return build(tmp_path)


def batch_of_two():
    units = torch.tensor([[0, 1, 2, 3, 4], [5, 0, 1, PAD_UNIT, PAD_UNIT]])
    durations = torch.tensor([[2, 0, 3], [1, 2, 0]])
    return PairedBatch(torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]), durations, units, None)


@torch.no_grad()
def test_losses_against_plain_ones(model):
    batch = batch_of_two()
    output = model(batch.phones, batch.phone_lengths, batch.durations)
    unit_loss, duration_loss = model.losses(output, batch)
    log_probs = output.logits.log_softmax(-1)
    frames = []
    for row in range(2):
        for frame in range(output.lengths[row]):
            target = batch.units[row, frame]
            others = [log_probs[row, frame, unit] for unit in range(6) if unit != target]
            frames.append(-(0.9 * log_probs[row, frame, target] + 0.1 * torch.stack(others).mean()))
    torch.testing.assert_close(unit_loss, torch.stack(frames).mean())
    errors = [
        (output.log_durations[row, phone] - torch.log(batch.durations[row, phone] + 1.0)) ** 2
        for row, count in enumerate([3, 2])
        for phone in range(count)
    ]
    torch.testing.assert_close(duration_loss, torch.stack(errors).mean())


@pytest.mark.parametrize(("seconds", "frames"), [(5.0, 250), (0.5, 25)])
@pytest.mark.parametrize("predicted", [20.0, 200.0])  # e^20 frames, and more than a float holds
def test_a_phone_has_a_longest_duration(tmp_path, seconds, frames, predicted):
    model = build(tmp_path, **({} if seconds == 5.0 else {"max_phone_seconds": seconds}))
    with torch.no_grad():
        model.duration_predictor.proj.bias.fill_(predicted)
    assert model.inventory.frame_rate == 50
    for speed in (1.0, 0.01):
        (spoken,) = model.generate([[4, 4, 4]], speed=speed)
        assert spoken.phone_durations == [frames] * 3
        assert (len(spoken.units), spoken.cut_phones) == (3 * frames, 3)
    assert model(torch.tensor([[4]]), torch.tensor([1])).logits.shape[1] == frames


def test_usual_durations_are_not_cut(model):
    assert [spoken.cut_phones for spoken in model.generate(SENTENCES)] == [0] * len(SENTENCES)


def test_longest_durations_are_above_0(tmp_path):
    with pytest.raises(SpeechLMError, match="max_phone_seconds is 0"):
        build(tmp_path, max_phone_seconds=0)


def test_generation_does_not_depend_on_the_batch(model):
    together = model.generate(SENTENCES)
    for sentence, spoken in zip(SENTENCES, together, strict=True):
        (alone,) = model.generate([sentence])
        assert spoken == alone
        assert len(spoken.units) == sum(spoken.phone_durations) > 0
        assert len(spoken.phone_durations) == len(sentence)
    assert model.generate(SENTENCES, batch_frames=1) == together
    assert model.generate(SENTENCES[::-1]) == together[::-1]
    assert not model.training


def test_generation_is_the_models_own_forward(model):
    for sentence, spoken in zip(SENTENCES, model.generate(SENTENCES), strict=True):
        output = model(torch.tensor([sentence]), torch.tensor([len(sentence)]))
        assert output.logits[0].argmax(1).tolist() == spoken.units


def test_speed(model):
    slow, fast = (sum(len(spoken.units) for spoken in model.generate(SENTENCES, speed=speed)) for speed in (0.25, 1.0))
    assert slow > 2 * fast


def test_without_a_frame(model):
    with torch.no_grad():
        model.duration_predictor.proj.bias.fill_(-9)
    assert model.generate(SENTENCES[:2]) == [([], [0] * 5, 0), ([], [0], 0)]
    assert model.generate([]) == []


def test_training_mode_is_kept_and_dropout_off_in_generation(tmp_path):
    model = build(tmp_path)
    for stack in (model.encoder, model.decoder):
        for layer in stack.layers:
            layer.dropout.p = 0.9
    expected = model.generate(SENTENCES)
    model.train()
    assert model.generate(SENTENCES) == expected
    assert model.training


def test_speakers(tmp_path):
    model = build(tmp_path, speakers=["a", "b"], speaker_dim=4)
    with torch.no_grad():
        model.speaker_embedding.weight.mul_(20)
    with pytest.raises(SpeechLMError, match="has 2 speakers; say which"):
        model.generate(SENTENCES)
    ours, others = (model.generate(SENTENCES, [speaker] * 4) for speaker in (0, 1))
    assert ours != others
    assert model.generate(SENTENCES, [0, 1, 1, 0]) == [ours[0], others[1], others[2], ours[3]]
    with pytest.raises(SpeechLMError, match="no speakers, but some are given"):
        build(tmp_path).generate(SENTENCES, [0] * 4)


def test_saved_and_restored(tmp_path, model):
    model.save_to(str(tmp_path / "x.nemo"))
    for name in ("phones.json", "hidden_units.json"):
        (tmp_path / name).unlink()
    again = TextToUnitModel.restore_from(str(tmp_path / "x.nemo"), map_location="cpu")
    assert again.phones == model.phones
    assert again.inventory == model.inventory
    assert again.generate(SENTENCES) == model.generate(SENTENCES)


def training_config(folder):
    pairs = tiny_paired_corpus(folder)
    data = {
        "manifest_filepath": str(pairs.hidden_manifest),
        "phones_manifest_filepath": str(pairs.phone_manifest),
        "batch_frames": 500,
    }
    return tiny_text_to_unit_config(folder, train_ds=data, validation_ds=data)


def validation_sets(folder, processes):
    model = TextToUnitModel(training_config(folder))
    model.world_size = processes
    sets = []
    for rank in range(processes):
        with patch.object(TextToUnitModel, "global_rank", rank):
            model.setup_validation_data(model.cfg.validation_ds)
        sets.append([batch.ids for batch in model._validation_dl])
    return sets


def test_every_process_has_something_to_validate(tmp_path):
    """Also where there are fewer batches than processes."""
    (alone,) = validation_sets(tmp_path, 1)
    assert len(alone) < 7
    every = sorted(name for batch in alone for name in batch)
    shares = validation_sets(tmp_path, 7)
    assert all(shares)
    assert sorted(name for share in shares for batch in share for name in batch) == every
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(InputError, match=f"{len(every)} utterances to validate in {len(every) + 1} processes"):
        validation_sets(tmp_path, len(every) + 1)


def test_an_epoch_goes_on_behind_the_one_before(tmp_path):
    """Also a resumed one, and where the last update of an epoch has fewer batches than others."""
    cfg = training_config(tmp_path)

    def trained_on(steps, resume=None, **options):
        trainer = tiny_trainer(steps, limit_val_batches=0, accumulate_grad_batches=2, **options)
        model = TextToUnitModel(cfg, trainer)
        batches = []
        with patch.object(model, "on_train_batch_start", lambda batch, _: batches.append(batch.ids)):
            trainer.fit(model, ckpt_path=resume)
        return batches, trainer

    whole, _ = trained_on(6)
    assert len(whole) == 12
    assert whole[:3] != whole[3:6]
    parts, _ = trained_on(6, limit_train_batches=3)
    assert parts == whole[:9]
    parts, trainer = trained_on(3, limit_train_batches=3)
    assert parts == whole[:5]
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    parts, _ = trained_on(6, tmp_path / "x.ckpt", limit_train_batches=3)
    assert parts == whole[5:9]


def test_it_learns(tmp_path):
    torch.manual_seed(0)
    cfg = training_config(tmp_path)
    cfg.optim.lr = 1e-2
    trainer = tiny_trainer(150, limit_val_batches=0)
    model = TextToUnitModel(cfg, trainer)
    trainer.fit(model)
    (result,) = tiny_trainer(1).validate(model, verbose=False)
    assert result["val_unit_accuracy"] > 0.95
    assert result["val_duration_error_frames"] < 0.2
    assert result["val_sentence_duration_error"] < 0.05
    assert 0.1 < result["val_accuracy_of_most_frequent_unit"] < 0.5
    spoken = model.generate([model.phones.encode(["SIL", "A", "B", "SIL"])])[0]
    assert all(abs(ours - true) <= 1 for ours, true in zip(spoken.phone_durations, [5, 3, 4, 5], strict=True))
    first, a, b, _ = spoken.phone_durations
    assert set(spoken.units[first : first + a]) == {1, 4}
    assert set(spoken.units[first + a : first + a + b]) == {2, 5}

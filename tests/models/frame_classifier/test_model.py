import math

import pytest
import torch
from omegaconf import OmegaConf

from nemo_speechlm.data.manifests.lines import read_manifest
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.data.pretraining.batch import PAD_UNIT, PretrainBatch, SpeechBatch
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.models import FrameClassifierModel
from nemo_speechlm.models.frame_classifier.classes import classes_of
from nemo_speechlm.modules.phone_loop import DecodedUnits
from nemo_speechlm.testing.configs import tiny_frame_classifier_config
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.trainer import tiny_trainer
from nemo_speechlm.units.inventory import UnitInventory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), n_speech=12)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """A model after a few seconds of training, and what it logged."""
    torch.manual_seed(0)
    trainer = tiny_trainer(120)
    model = FrameClassifierModel(tiny_frame_classifier_config(corpus), trainer=trainer)
    trainer.fit(model)
    return model, {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_learns_tones(trained):
    _, logged = trained
    assert logged["val_frame_accuracy"] > 0.85
    assert logged["val_phone_error_rate"] < 0.1
    assert logged["val_phone_error_rate"] == logged["val_unit_error_rate"]  # nothing is merged


@torch.no_grad()
def test_what_the_aligner_said_is_no_error(corpus, monkeypatch):
    """A unit that follows itself is one in the frames, by which decoded units are judged."""
    model = FrameClassifierModel(tiny_frame_classifier_config(corpus, train_ds=None, validation_ds=None))
    units, durations = [0, 3, 3, 2, 0], [20, 15, 25, 20, 20]
    frames = torch.tensor([units]).repeat_interleave(torch.tensor(durations), dim=1)
    speech = SpeechBatch(torch.randn(1, 16000), torch.tensor([16000]), frames, torch.tensor([100]))
    found: dict[str, float] = {}
    monkeypatch.setattr(model.phone_loop, "forward", lambda scores, lengths: [DecodedUnits(units, durations, 0.0)])
    monkeypatch.setattr(
        model, "log_mean", lambda name, total, count: found.update({name: float(total) / float(count)})
    )
    model.validation_step(PretrainBatch(speech, None), 0)
    assert found["val_unit_error_rate"] == found["val_phone_error_rate"] == 0


def test_counts_classes_of_the_frames_it_learned_from(trained, corpus):
    model, _ = trained
    counts = torch.zeros(len(model.inventory))
    for number, record in read_manifest(corpus.speech):
        sequence = unit_sequence(record, model.inventory, corpus.speech, number)
        counts += torch.bincount(torch.tensor(sequence.expand()), minlength=len(counts))
    share = model.log_priors.exp().unflatten(0, (len(model.phones), 3)).sum(1)
    torch.testing.assert_close(share, counts / counts.sum(), rtol=0.1, atol=0.01)
    assert float(share.sum()) == pytest.approx(1)


def test_bigram_is_that_of_the_training_manifest(trained, corpus):
    model, _ = trained
    bigram = model.phone_loop.bigram.exp()
    assert float(bigram[-1, 0]) > 0.8  # all utterances begin with silence
    heard = bigram[:-1, :-1].amax(0) > 0
    spoken = {unit for _, record in read_manifest(corpus.speech) for unit in record["units"]}
    assert {model.inventory.symbols[i] for i in torch.nonzero(heard).flatten()} == spoken


def test_classes_are_thirds_of_a_unit(trained):
    model, _ = trained
    units = torch.tensor([[0, 0, 0, 0, 2, 2, 1], [3, 3, 3, 3, 3, PAD_UNIT, PAD_UNIT]])
    classes = classes_of(units, model.phone_of_unit, model.parts)
    assert classes.tolist() == [[0, 0, 1, 2, 6, 7, 3], [9, 9, 10, 10, 11, PAD_UNIT, PAD_UNIT]]


def test_decoded_durations_sum_up_to_the_audio(trained):
    model, _ = trained
    lengths = torch.tensor([16000, 8123, 1600])
    decoded = model.decode(0.1 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(0)), lengths)
    assert [d.num_frames for d in decoded] == [100, 51, 10]


def test_scores_take_the_prior_out(trained, corpus):
    model, _ = trained
    audio, length = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)), torch.tensor([16000])
    before, _ = model.frame_scores(audio, length)
    model.set_decoding(prior_weight=0.0, lm_weight=None)
    after, frames = model.frame_scores(audio, length)
    model.set_decoding(prior_weight=0.5)
    torch.testing.assert_close(after.exp().sum(-1), torch.ones(1, 100))
    torch.testing.assert_close(after - before, (0.5 * model.log_priors).expand(1, 100, -1), rtol=1e-4, atol=1e-4)
    assert frames.tolist() == [100]


def test_restored_model_is_the_same(trained, tmp_path):
    model, _ = trained
    model.save_to(str(tmp_path / "model.nemo"))
    restored = FrameClassifierModel.restore_from(str(tmp_path / "model.nemo"), map_location="cpu")
    weights = restored.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    audio, lengths = torch.randn(2, 16000, generator=torch.Generator().manual_seed(1)), torch.tensor([16000, 9000])
    assert model.decode(audio, lengths) == restored.decode(audio, lengths)


def test_features(trained):
    model, _ = trained
    model.train()
    (states,), frames = model.extract_features(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    assert states.shape == (2, 50, 32)
    assert frames.tolist() == [50, 25]
    assert model.training
    assert model.extract_features(torch.randn(1, 8000), torch.tensor([8000]), [0])[0][0].shape == (1, 25, 32)


def test_units_share_classes(corpus, tmp_path):
    inventory = UnitInventory("phoneme", "en", 100, ("SIL", "AH0_B", "AH1_E", "T_B", "T_S"), "SIL")
    inventory.save(tmp_path / "units.json")
    config = {"units": str(tmp_path / "units.json"), "train_ds": None, "validation_ds": None}

    def phones(ignore):
        classes = {"ignore": ignore, "parts": 2}
        return FrameClassifierModel(tiny_frame_classifier_config(corpus, classes=classes, **config))

    model = phones("_[BEIS]$")
    assert model.phones == ["SIL", "AH0", "AH1", "T"]
    assert model.phone_loop.outputs.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [6, 7]]
    assert phones("[0-2]?_[BEIS]$").phones == ["SIL", "AH", "T"]
    assert phones(None).phones == list(inventory.symbols)
    assert math.isclose(float(model.log_priors.exp().sum()), 1, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes.ignore": "("}, "not a regular expression"),
        ({"classes.parts": 0}, "parts is 0"),
        ({"decoding.min_duration": 2}, "min_duration is 2"),
        ({"preprocessor.window_stride": 0.0125}, "expected a whole number of unit frames"),
        ({"encoder.subsampling_factor": 1, "preprocessor.window_stride": 0.005}, "has 200 frames a second"),
    ],
)
def test_bad_config(corpus, changes, message):
    config = tiny_frame_classifier_config(corpus)
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    with pytest.raises(SpeechLMError, match=message):
        FrameClassifierModel(config)


def test_bad_data(corpus):
    model = FrameClassifierModel(tiny_frame_classifier_config(corpus))
    with pytest.raises(InputError, match="speech part alone"):
        model.setup_training_data({"text": {"manifest_filepath": str(corpus.text), "batch_tokens": 100}})
    with pytest.raises(InputError, match="bigram_manifests"):
        model.setup_training_data({"speech": {"input_cfg": [], "batch_duration": 8}})
    model.estimate_bigram([str(corpus.text)])  # text has units too
    assert float(model.phone_loop.bigram[-1, 0].exp()) > 0.8


def test_classes_are_counted_exactly_in_bf16(corpus):
    """Sums of bf16 stand still at 256 times what is added."""
    model = FrameClassifierModel(tiny_frame_classifier_config(corpus)).to(torch.bfloat16)
    before = model.class_counts.clone()
    for _ in range(1000):
        model.class_counts += 3
    assert torch.equal(model.class_counts, before + 3000)
    expected = (before + 3001).double()
    torch.testing.assert_close(model.log_priors, (expected / expected.sum()).log().float())

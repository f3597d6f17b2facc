"""Alignment of speech and units, and its pictures."""

import csv

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from nemo_speechlm.cli import CONF
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.evaluation.error_rates import ErrorCounts
from nemo_speechlm.evaluation.space.alignment import _Kept, align, read_spoken, share
from nemo_speechlm.evaluation.space.pictures import pca
from nemo_speechlm.evaluation.space.run import run_shared_space
from nemo_speechlm.models import SpeechLMModel
from nemo_speechlm.testing import tiny_corpus, tiny_hidden_corpus, tiny_pretrain_config


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"), 4, 2)


@pytest.fixture(scope="module")
def model(corpus):
    torch.manual_seed(0)
    return SpeechLMModel(tiny_pretrain_config(corpus, train_ds=None, validation_ds=None)).eval()


def config(*overrides):
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return compose("shared_space", overrides=["device=cpu", "draws=100", *overrides])


class Cheating:
    """In the speech transformer's place: the embedding of the unit of each frame."""

    def __init__(self, model, utterances):
        self.model, self.utterances, self.turn = model, utterances, 0

    def __call__(self, waveform, length):
        frames = self.utterances[self.turn].frames[::2]
        self.turn += 1
        states = self.model.unit_embedding(torch.from_numpy(frames)).unsqueeze(0)
        padding = torch.zeros(1, len(frames), dtype=torch.bool)
        _, layers = self.model.encoder.encode_shared(states, padding)
        return [3 * states, *layers], torch.tensor([len(frames)])


def test_states_that_are_the_embeddings_align(model, corpus, monkeypatch):
    utterances = read_spoken(corpus.speech, model.inventory)
    monkeypatch.setattr(model, "extract_features", Cheating(model, utterances))
    found = align(model, utterances, "cheating", points=5)
    assert [(score.name, score.against) for score in found.scores] == [("speech 1", "embedding"), ("shared 1", "text")]
    assert share(found.scores[0].units, 0.95, 100)[0] == 1.0
    assert share(found.scores[1].units, 0.95, 0)[0] > 0.9, "texts and speech are the same here"
    silence = model.inventory.symbols.index("SIL")
    assert silence not in found.before.units
    frames = sum((utterance.frames[::2] != silence).sum() for utterance in utterances)
    assert sum(count.length for count in found.scores[0].units) == frames
    own = {unit: row for row, unit in enumerate(found.before.ids)}
    rows = [own[unit] for unit in found.before.units]
    np.testing.assert_allclose(found.before.speech, found.before.prototypes[rows], atol=1e-5)
    assert max(np.bincount(found.before.units)) == 5


def test_states_of_an_untrained_model_do_not(model, corpus):
    found = align(model, read_spoken(corpus.speech, model.inventory, 2), "untrained")
    assert share(found.scores[0].units, 0.95, 0)[0] < 0.4
    assert 1 / 12 < found.most_frequent < 0.5
    assert found.swapping == pytest.approx(0.4)


def test_hidden_units_are_no_phones(tmp_path):
    corpus = tiny_hidden_corpus(tmp_path, 2, 1)
    model = SpeechLMModel(tiny_pretrain_config(corpus, train_ds=None, validation_ds=None)).eval()
    assert model.inventory.symbols[:3] == ("0", "1", "2")
    found = align(model, read_spoken(corpus.speech, model.inventory), "hidden")
    for score in found.scores:
        assert score.phones == score.units


def test_shares_have_intervals():
    value, interval = share([ErrorCounts(1, 0, 0, 4), ErrorCounts(3, 0, 0, 4)], 0.95, 200)
    assert value == 0.5
    assert (interval.low, interval.high) == (0.25, 0.75)


def test_the_command_leaves_table_and_pictures(model, corpus, tmp_path):
    for name in ("one/a.nemo", "two/a.nemo"):
        (tmp_path / name).parent.mkdir()
        model.save_to(str(tmp_path / name))
    cfg = config(
        f"models=[{tmp_path}/one/a.nemo,{tmp_path}/two/a.nemo]", f"manifest={corpus.speech}", f"output={tmp_path}/o"
    )
    run_shared_space(cfg)
    with open(tmp_path / "o" / "alignment.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["layer"]) for row in rows] == [
        ("one/a", "speech 1"), ("one/a", "shared 1"), ("two/a", "speech 1"), ("two/a", "shared 1"),
    ]  # fmt: skip
    assert rows[0]["unit_share"] == rows[2]["unit_share"]
    for row in rows:
        assert float(row["unit_low"]) <= float(row["unit_share"]) <= float(row["unit_high"])
        assert float(row["phone_share"]) >= float(row["unit_share"])
    assert (tmp_path / "o" / "space.png").stat().st_size > 5000
    assert (tmp_path / "o" / "alignment.png").stat().st_size > 5000
    with pytest.raises(InputError, match="exists already"):
        run_shared_space(cfg)


def test_models_without_unit_embeddings(corpus, tmp_path):
    alone = {"train_ds": None, "validation_ds": None, "swapping": {"prob": 0.0, "length": 2}}
    loss = {"umlm": 1.0, "umlm_unmasked": 0.0, "uctc": 0.0, "feature_penalty": 0.0}
    SpeechLMModel(tiny_pretrain_config(corpus, **alone, loss=loss)).save_to(str(tmp_path / "a.nemo"))
    common = [f"manifest={corpus.speech}", f"output={tmp_path}/o"]
    with pytest.raises(InputError, match="no unit embedding"):
        run_shared_space(config(f"models={tmp_path}/a.nemo", *common))
    with pytest.raises(SpeechLMError, match="projection is 'tsne', expected pca or umap"):
        run_shared_space(config("models=a.nemo", "projection=tsne", *common))


def test_pca_finds_the_widest_directions():
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((200, 5)) * [1, 9, 0.1, 5, 0.1] + 3
    points = pca(wide)
    assert abs(np.corrcoef(points[:, 0], wide[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], wide[:, 3])[0, 1]) > 0.99
    assert np.abs(points.mean(0)).max() < 1e-9


def test_kept_states_come_from_everywhere():
    kept = _Kept(10, np.random.default_rng(0))
    states = torch.arange(100.0).unsqueeze(1)
    kept.offer(np.zeros(100, dtype=int), states, -states)
    units, before, after = kept.arrays()
    assert len(units) == 10
    assert before.max() > 50
    np.testing.assert_array_equal(before, -after)

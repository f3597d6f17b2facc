"""Training on features that a known HMM made."""

import itertools

import numpy as np
import pytest
import torch

from nemo_speechlm.alignment.aligner import Alignment
from nemo_speechlm.alignment.graph import Topology, build_graph
from nemo_speechlm.alignment.mfcc import Mfcc
from nemo_speechlm.alignment.training import Corpus, TrainingPlan, start, train_pass
from nemo_speechlm.errors import InputError

PHONES = ("SIL", *"abcdef")
TOPOLOGY = Topology(PHONES, "SIL")


def spelled(word):
    return [(phone, phone) for phone in word]


@pytest.fixture(scope="module")
def made():
    """60 utterances of 3 to 6 words, one of them with two pronunciations, and their true phones and durations."""
    rng = np.random.default_rng(0)
    centres = {phone: rng.normal(0, 1.5, 6) + rng.normal(0, 0.5, (3, 6)) for phone in PHONES}
    centres["SIL"] -= np.array([4.0, 0, 0, 0, 0, 0])  # the first feature is loudness
    words = {"ab": ["ab"], "cad": ["cad"], "fe": ["fe", "fed"], "bec": ["bec"], "d": ["d"]}
    features, graphs, truth = [], [], []
    for _ in range(60):
        chosen = rng.choice(list(words), rng.integers(3, 7))
        said = [("SIL", int(rng.integers(5, 15)))]
        for word in chosen:
            said += [(phone, int(rng.integers(4, 12))) for phone in rng.choice(words[word])]
            if rng.random() < 0.3:
                said.append(("SIL", int(rng.integers(4, 10))))
        frames = [centres[phone][3 * t // n] + 0.3 * rng.standard_normal(6) for phone, n in said for t in range(n)]
        features.append(torch.tensor(np.array(frames), dtype=torch.float32))
        graphs.append(build_graph([[spelled(v) for v in words[word]] for word in chosen], TOPOLOGY, "SIL", 0.5))
        truth.append(said)
    return Corpus(torch.cat(features), [len(x) for x in features], graphs), truth


PLAN = TrainingPlan(passes=12, tied_passes=4, realign_every_pass=8, components=40, settle=3, batch_frames=600)


@pytest.fixture(scope="module")
def trained(made):
    state = start(made[0], TOPOLOGY, PLAN, "SIL", Mfcc())
    while len(state.reports) < PLAN.passes:
        state = train_pass(made[0], state, PLAN)
    return state


def labels(phones):
    return np.concatenate([np.repeat(PHONES.index(phone), frames) for phone, frames in phones])


def test_known_times_are_found(made, trained):
    corpus, truth = made
    found = trained.aligner.align([corpus.utterance(n) for n in range(60)], corpus.graphs)
    assert all(isinstance(alignment, Alignment) for alignment in found)
    right = np.concatenate([labels(a.phones) == labels(said) for a, said in zip(found, truth, strict=True)])
    assert right.mean() > 0.95
    started = start(corpus, TOPOLOGY, PLAN, "SIL", Mfcc()).states
    phones = np.repeat(range(len(PHONES)), 3)[started]
    assert (phones == np.concatenate([labels(said) for said in truth])).mean() < 0.7  # it was no gift
    spoken = [
        [[phone for phone, _ in x if phone != "SIL"] for x in (a.phones, said)]
        for a, said in zip(found, truth, strict=True)
    ]
    assert np.mean([ours == said for ours, said in spoken]) > 0.9  # which pronunciation it was


def test_reports(trained):
    values = [report.log_likelihood for report in trained.reports]
    assert values[-1] > values[0] + 1
    assert all(later > earlier - 0.05 for earlier, later in itertools.pairwise(values[1:]))
    assert [r.number for r in trained.reports if r.realigned] == [2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert {report.failed for report in trained.reports} == {0}
    assert trained.reports[0].components == TOPOLOGY.num_states
    assert abs(trained.reports[-1].components - 40) <= 3


def test_transitions_are_those_of_the_durations(made, trained):
    frames = sum(n for said in made[1] for phone, n in said if phone != "SIL")
    phones = sum(phone != "SIL" for said in made[1] for phone, _ in said)
    visits = 1 / (1 - trained.aligner.stay[3:])  # mean frames in a state
    assert visits.mean().item() == pytest.approx(frames / phones / 3, rel=0.1)


def test_states_of_a_phone_begin_alike(made):
    state = start(made[0], TOPOLOGY, PLAN, "SIL", Mfcc())
    for number in range(1, PLAN.tied_passes + 2):
        state = train_pass(made[0], state, PLAN)
        means = state.aligner.mixtures.means.unflatten(0, (len(PHONES), 3))
        assert (means == means[:, :1]).all().item() == (number <= PLAN.tied_passes)
        if number <= PLAN.tied_passes + 1:  # and have as many frames each, more or less
            counts = np.bincount(state.states).reshape(-1, 3)
            assert (counts.max(1) < 1.7 * counts.min(1)).all()


def test_batches_do_not_matter(made, trained):
    state = start(made[0], TOPOLOGY, PLAN, "SIL", Mfcc())
    plan = TrainingPlan(**{**PLAN.__dict__, "batch_frames": 10**6})
    for _ in range(3):
        state = train_pass(made[0], state, plan)
    assert state.reports[2].log_likelihood == pytest.approx(trained.reports[2].log_likelihood, abs=1e-4)


def test_every_utterance_is_in_one_batch(made):
    batches = list(made[0].batches(600))
    assert sorted(n for batch in batches for n in batch) == list(range(60))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(made[0].lengths[n] for n in batch) <= 600


def test_utterances_that_are_too_short_fail(made):
    corpus = made[0]
    short = Corpus(corpus.features[: corpus.lengths[0] + 5], [corpus.lengths[0], 5], corpus.graphs[:2])
    state = start(short, TOPOLOGY, PLAN, "SIL", Mfcc())
    for _ in range(2):
        state = train_pass(short, state, PLAN)
        assert state.reports[-1].failed == 1
    assert (state.states[corpus.lengths[0] :] == -1).all()
    none = Corpus(corpus.features[:5], [5], corpus.graphs[1:2])
    with pytest.raises(InputError, match="do the transcripts belong to the audio"):
        train_pass(none, start(none, TOPOLOGY, PLAN, "SIL", Mfcc()), PLAN)


@pytest.mark.parametrize("bad", [{"passes": 0}, {"components": "many"}, {"silence_probability": 1.0}])
def test_bad_plans(bad):
    with pytest.raises(InputError, match=f"{next(iter(bad))} is "):
        TrainingPlan(**bad)


def test_schedule():
    plan = TrainingPlan(passes=10, realign_every_pass=4, realign_interval=2, tied_passes=1, components=100, settle=3)
    assert [n for n in range(1, 11) if plan.realigns(n)] == [2, 3, 4, 5, 7, 9]
    assert [plan.components_at(n, 30) for n in (1, 2, 7, 9)] == [30, 42, 100, 100]
    assert plan.components_at(9, 200) == 200

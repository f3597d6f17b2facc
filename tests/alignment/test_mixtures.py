import math

import pytest
import torch

from nemo_speechlm.alignment.graph import IMPOSSIBLE
from nemo_speechlm.alignment.mixtures import Mixtures


@pytest.fixture
def mixtures():
    torch.manual_seed(0)
    weights = torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    return Mixtures(weights.log().clamp(min=IMPOSSIBLE), torch.randn(2, 2, 3), torch.rand(2, 2, 3) + 0.1)


def test_scores_are_those_of_torch_distributions(mixtures):
    x = torch.randn(5000, 3)  # more than are scored at once
    for state, components in ((0, 2), (1, 1)):
        parts = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=mixtures.log_weights[state, :components]),
            torch.distributions.Independent(
                torch.distributions.Normal(
                    mixtures.means[state, :components], mixtures.variances[state, :components].sqrt()
                ),
                1,
            ),
        )
        torch.testing.assert_close(mixtures.score(x)[:, state], parts.log_prob(x), atol=1e-3, rtol=1e-4)
        joint = mixtures.score_state(state, x)[:, :components]
        torch.testing.assert_close(joint.logsumexp(1), parts.log_prob(x), atol=1e-3, rtol=1e-4)


def test_one_gaussian_is_mean_and_variance():
    torch.manual_seed(1)
    x = torch.randn(500, 3) * torch.tensor([1.0, 2.0, 1e-4]) + 4
    states = torch.tensor([0, 1]).repeat(250)
    flat = Mixtures.flat(3, torch.zeros(3), torch.ones(3))
    new, before = flat.estimate(x, states, torch.full((3,), 0.01))
    for state in (0, 1):
        mine = x[states == state]
        torch.testing.assert_close(new.means[state, 0], mine.mean(0))
        torch.testing.assert_close(new.variances[state, 0, :2], mine.var(0, correction=0)[:2], atol=1e-4, rtol=1e-4)
    assert (new.variances[:2, 0, 2] == 0.01).all()  # the floor
    assert torch.equal(new.means[2], flat.means[2])  # no frames, no change
    expected = -0.5 * (x.double().square().sum(1) + 3 * math.log(2 * math.pi)).mean()
    assert before == pytest.approx(float(expected), rel=1e-5)


def test_em_raises_the_likelihood_and_finds_the_components():
    torch.manual_seed(2)
    centres = torch.tensor([[-4.0, 0.0], [4.0, 1.0], [0.0, 6.0]])
    x = centres[torch.arange(3000) % 3] + 0.5 * torch.randn(3000, 2)
    states = torch.zeros(3000, dtype=torch.long)
    mixtures, floor = Mixtures.flat(1, x.mean(0), x.var(0)), torch.full((2,), 0.01)
    history = []
    for _ in range(3):
        for _ in range(15):
            mixtures, value = mixtures.estimate(x, states, floor)
            history.append(value)
        wanted = min(3, mixtures.num_components + 1)
        grown = mixtures.grow(torch.tensor([3000]), wanted)
        assert grown.num_components == wanted
        assert grown.log_weights.exp().sum().item() == pytest.approx(1, abs=1e-5)
        rise = [b - a for a, b in zip(history[-15:], history[-14:], strict=False)]
        assert min(rise) > -1e-5  # between two growths EM never loses
        mixtures = grown
    assert history[-1] > history[0] + 1
    found = mixtures.means[0][mixtures.log_weights[0] > IMPOSSIBLE / 2]
    assert (torch.cdist(centres, found).min(1).values < 0.2).all()


def test_growth_is_shared_by_the_fourth_root_and_fed_by_frames():
    flat = Mixtures.flat(4, torch.zeros(2), torch.ones(2))
    grown = flat.grow(torch.tensor([160000, 10000, 45, 0]), 34)
    sizes = (grown.log_weights > IMPOSSIBLE / 2).sum(1).tolist()
    assert sizes[:2] == [21, 10]  # 20 to 10, of what is left of 34
    assert sizes[2:] == [2, 1]  # two tens of frames for each
    assert torch.isfinite(grown.score(torch.randn(10, 2))).all()


def test_a_component_without_frames_is_dropped():
    far = Mixtures(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[[0.0], [1000.0]]]), torch.ones(1, 2, 1))
    new, _ = far.estimate(torch.randn(200, 1), torch.zeros(200, dtype=torch.long), torch.tensor([0.01]))
    assert new.num_components == 1
    assert new.log_weights[0, 0].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(new.grow(torch.tensor([200]), 2).log_weights.exp().sum(), torch.tensor(1.0))

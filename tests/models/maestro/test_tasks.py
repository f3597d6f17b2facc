"""MAESTRO's tasks against slow plain versions."""

import math

import pytest
import torch
from torch.nn import functional as F

from nemo_speechlm.models.maestro.aligned_mlm import Repetition, aligned_mlm, text_states
from nemo_speechlm.models.maestro.matching import align, duration_figure, matching_figures, pair_figures
from nemo_speechlm.modules.masking import SpanMask
from nemo_speechlm.modules.text_branch import resample
from tests.kernels.test_lattice import paths


def lattice_of(branch, states, tokens):
    """Log-probabilities (T, U + 1, V + 1) of one row, by NeMo's own joint."""
    predicted, _ = branch.decoder.predict(tokens.unsqueeze(0), state=None, add_sos=True)
    joint = branch.joint
    out = joint.joint_after_projection(joint.project_encoder(states.unsqueeze(0)), joint.project_prednet(predicted))
    return out.log_softmax(-1)[0]


def score(log_probs, tokens, path):
    """The log-probability of a path."""
    total, blank, u = 0.0, log_probs.shape[2] - 1, 0
    for t in range(len(log_probs)):
        while u < len(path) and path[u] == t:
            total += float(log_probs[t, u, tokens[u]])
            u += 1
        total += float(log_probs[t, u, blank])
    return total


@pytest.fixture
def states():
    return torch.randn(2, 4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_rnnt_and_alignment_against_all_paths(model, states):
    tokens, targets, frames = torch.tensor([[3, 7, 2], [5, 1, 0]]), torch.tensor([3, 2]), torch.tensor([4, 3])
    losses = model.phones.nll(states, frames, tokens, targets)
    best = model.phones.align(states, frames, tokens, targets)
    for b in range(2):
        T, U = int(frames[b]), int(targets[b])
        log_probs = lattice_of(model.phones, states[b, :T], tokens[b, :U])
        scores = {path: score(log_probs, tokens[b], path) for path in paths(T, U)}
        expected = -math.log(sum(map(math.exp, scores.values())))
        assert float(losses[b]) == pytest.approx(expected, rel=1e-9)
        assert tuple(best[b, :U].tolist()) == max(scores, key=scores.get)


@pytest.mark.parametrize("normalize", [False, True])
def test_matching(model, states, normalize):
    target = torch.randn_like(states)
    lengths = torch.tensor([4, 2])
    model.normalize = normalize
    figures = matching_figures(states, target, lengths, model)
    model.normalize = True
    total, cosine = 0.0, 0.0
    for b in range(2):
        for t in range(int(lengths[b])):
            x, y = states[b, t], target[b, t]
            if normalize:
                x, y = ((v - v.mean()) / (v.var(unbiased=False) + 1e-5).sqrt() for v in (x, y))
            total += float(((x - y) ** 2).mean())
            cosine += float(F.cosine_similarity(x, y, dim=0))
    assert float(figures["matching"].total) == pytest.approx(total)
    assert float(figures["matching_cosine"].total) == pytest.approx(cosine)
    assert int(figures["matching"].number) == 6


def test_durations(model):
    text, durations = torch.randn(2, 3, 32, dtype=torch.float64), torch.tensor([[2, 1, 4], [3, 2, 0]])
    lengths = torch.tensor([3, 2])
    figure = duration_figure(model, text, durations, lengths)
    predicted = model.duration_model(text, lengths)
    pairs = [(b, u) for b in range(2) for u in range(int(lengths[b]))]
    expected = sum((float(predicted[b, u]) - math.log(1 + int(durations[b, u]))) ** 2 for b, u in pairs)
    assert float(figure.total) == pytest.approx(expected)
    assert int(figure.number) == 5


@pytest.mark.parametrize("normalize", [False, True])
def test_sums_of_bf16_are_exact(model, monkeypatch, normalize):
    monkeypatch.setattr(model, "normalize", normalize)
    generator = torch.Generator().manual_seed(0)
    lengths, durations = torch.tensor([300, 200]), torch.randint(1, 300, (2, 300), generator=generator)
    both = [torch.randn(2, 300, 32, generator=generator).bfloat16() for _ in range(2)]
    predicted = 3 * torch.rand(2, 300, generator=generator).bfloat16()
    sums = []
    for exact in (False, True):
        refined, target = (x.double() if exact else x for x in both)
        says = predicted.double() if exact else predicted
        monkeypatch.setattr(model.duration_model, "forward", lambda *_, says=says: says)
        figures = matching_figures(refined, target, lengths, model)
        sums.append([*figures.values(), duration_figure(model, refined, durations, lengths)])
    for found, exact in zip(*sums, strict=True):
        assert float(found.total) == pytest.approx(float(exact.total), rel=1e-5)


def test_a_fixed_target_gets_no_gradient(model, batch):
    """With ``detach`` matching teaches the text branch alone, without it the speech encoder too."""
    for detach in (True, False):
        model.zero_grad()
        model.detach = detach
        speech = model.speech_of(batch.pairs)
        pair_figures(model, speech, batch.pairs, ["matching"])["matching"].total.backward()
        assert (model.encoder.speech_transformer.layers[0].norm_out.weight.grad is None) == detach
        assert model.refiner.projection.weight.grad.abs().sum() > 0
    model.detach = True


def test_the_average_makes_the_alignment(model, batch):
    speech = model.speech_of(batch.pairs)
    durations = align(model, speech.signal, speech.signal_lengths, batch.pairs)
    assert durations.sum(1).tolist() == speech.lengths.tolist()
    with torch.no_grad():
        kept = model.phones.joint.joint_net[-1].bias.clone()
        model.phones.joint.joint_net[-1].bias.normal_(std=9)
    assert torch.equal(align(model, speech.signal, speech.signal_lengths, batch.pairs), durations)
    with torch.no_grad():
        model.phones.joint.joint_net[-1].bias.copy_(kept)


def test_repetition(model, batch):
    phones, lengths = batch.text.phones, batch.text.phone_lengths
    outside = torch.arange(phones.shape[1]) >= lengths.unsqueeze(1)
    fixed = Repetition("fixed", 3, 3).draw(model, phones, lengths)
    assert (fixed[~outside] == 3).all()
    drawn = Repetition("random", 1, 3).draw(model, phones, lengths, torch.Generator().manual_seed(0))
    assert set(drawn[~outside].tolist()) == {1, 2, 3}
    learned = Repetition("learned", 2, 5).draw(model, phones, lengths)
    text = model.average["text_encoder"](phones, lengths)
    frames = (model.average["duration_model"](text, lengths).exp() - 1).round().clamp(2, 5)
    assert torch.equal(learned[~outside], frames[~outside].long())
    for durations in (fixed, drawn, learned):
        assert (durations[outside] == 0).all()


def test_aligned_mlm_is_rnnt_on_masked_states(model, batch):
    figures = aligned_mlm(model, batch.text, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    phones, lengths = batch.text.phones, batch.text.phone_lengths
    states, frames = text_states(model, phones, lengths, generator)
    durations = model.repetition.draw(model, phones, lengths)
    refined = model.refiner(*resample(model.text_encoder(phones, lengths), durations))
    torch.testing.assert_close(states, refined)
    time = model.mlm_time.draw(frames, states.shape[1], generator)
    features = model.mlm_features.draw(torch.full((3,), 32), 32, generator)
    seen = states.clone()
    for b, t, d in torch.cartesian_prod(*map(torch.arange, seen.shape)).tolist():
        if time[b, t] or features[b, d]:
            seen[b, t, d] = 0
    encoded, _ = model.encoder.shared_transformer(audio_signal=seen, length=frames, bypass_pre_encode=True)
    expected = model.graphemes.nll(encoded.transpose(1, 2), frames, batch.text.tokens, batch.text.token_lengths).sum()
    torch.testing.assert_close(figures["mlm_graphemes"].total, expected)
    assert int(figures["mlm_graphemes"].number) == 20
    assert int(figures["mlm_phones"].number) == 16


@torch.no_grad()
def test_pairs_are_masked_in_training_alone(model, batch, monkeypatch):
    """A validation, and what others ask of the model, hear all of an utterance."""
    whole = model.speech_of(batch.pairs).states
    monkeypatch.setattr(model, "pairs_masking", SpanMask(1.0, 3, 1))
    assert torch.equal(model.speech_of(batch.pairs).states, whole)
    masked = model.train().speech_of(batch.pairs, torch.Generator().manual_seed(0))
    assert not torch.allclose(masked.states, whole)
    durations = align(model, masked.signal, masked.signal_lengths, batch.pairs)
    assert torch.equal(durations, model.eval().align(batch.pairs)), "alignments are of what was not masked"

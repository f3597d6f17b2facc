import math

import pytest
import torch
from torch.autograd import gradcheck

from nemo_speechlm.losses import contrastive_prediction
from nemo_speechlm.modules.draws import draw_distractors


def plain(states, targets, codes, distractors, temperature, leave_out_same=True):
    """The loss, frame by frame and pair by pair."""
    loss, correct = 0.0, 0
    for n, own in enumerate(distractors.tolist()):
        others = [k for k in own if codes[k] != codes[n]]
        logits = [torch.cosine_similarity(states[n], targets[k], dim=0).item() / temperature for k in [n, *others]]
        told = logits[1:]
        if not leave_out_same:
            told = [torch.cosine_similarity(states[n], targets[k], dim=0).item() / temperature for k in own]
        loss += math.log(math.exp(logits[0]) + sum(math.exp(x) for x in told)) - logits[0]
        correct += bool(others) and logits[0] > max(logits[1:])
    return loss, correct


def drawn(seed=0, N=12, D=5, V=4, K=6):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(V, (N,), generator=generator)
    book = torch.randn(V, D, dtype=torch.float64, generator=generator)
    states = torch.randn(N, D, dtype=torch.float64, generator=generator)
    rows = torch.tensor([0] * 7 + [2] * 4 + [3])
    return states, book[codes], codes, draw_distractors(rows, K, generator)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("temperature", "leave_out_same"), [(0.1, True), (1.0, True), (0.5, False)])
def test_equals_plain(seed, temperature, leave_out_same):
    given = drawn(seed)
    found = contrastive_prediction(*given, temperature, leave_out_same)
    loss, correct = plain(*given, temperature, leave_out_same)
    assert found.loss.item() == pytest.approx(loss, rel=1e-12)
    assert int(found.correct) == correct


def test_gradients():
    states, targets, codes, distractors = drawn()
    states.requires_grad_(), targets.requires_grad_()
    assert gradcheck(lambda s, t: contrastive_prediction(s, t, codes, distractors).loss, (states, targets))


def test_a_frame_alone_has_nothing_to_be_told_from():
    found = draw_distractors(torch.tensor([3]), 4)
    assert found.tolist() == [[0] * 4]
    told = contrastive_prediction(torch.randn(1, 3), torch.randn(1, 3), torch.tensor([5]), found)
    assert told.loss.item() == pytest.approx(0, abs=1e-6)
    assert int(told.correct) == 0


def test_one_code_for_all_is_never_right():
    states = torch.randn(6, 3)
    distractors = draw_distractors(torch.zeros(6, dtype=torch.long), 5)
    told = contrastive_prediction(states, torch.ones(6, 3), torch.zeros(6, dtype=torch.long), distractors)
    assert int(told.correct) == 0
    assert told.loss.item() == pytest.approx(0, abs=1e-5), "as in wav2vec 2.0: it may collapse to this"
    same = torch.zeros(6, dtype=torch.long)
    counted = contrastive_prediction(states, torch.ones(6, 3), same, distractors, leave_out_same=False)
    assert counted.loss.item() == pytest.approx(6 * math.log(6), rel=1e-5)


def test_no_masked_frame():
    none = torch.zeros(0, dtype=torch.long)
    told = contrastive_prediction(torch.zeros(0, 3), torch.zeros(0, 3), none, draw_distractors(none, 5))
    assert told.loss.item() == 0

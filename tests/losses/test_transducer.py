"""The RNN-T loss over NeMo's joint network, whole and in parts."""

import pytest
import torch
from nemo.collections.asr.modules import RNNTJoint

from nemo_speechlm.losses.transducer import lattice_log_probs, transducer_log_probs, transducer_loss

JOINT = {"encoder_hidden": 6, "pred_hidden": 5, "joint_hidden": 7, "activation": "relu", "dropout": 0.0}
FRAMES, TARGETS = torch.tensor([8, 5]), torch.tensor([4, 2])


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    tokens = torch.randint(0, 10, (2, 4))
    return torch.randn(2, 8, 6, requires_grad=True), torch.randn(2, 5, 5, requires_grad=True), tokens


@pytest.mark.parametrize("log_softmax", [None, False, True])
def test_what_nemos_joint_says(inputs, log_softmax):
    encoded, predicted, tokens = inputs
    joint = RNNTJoint(jointnet=JOINT, num_classes=10, vocabulary=list("abcdefghij"), log_softmax=log_softmax)
    blank, emit = transducer_log_probs(joint, encoded, predicted, tokens)
    expected = joint.joint(encoded, predicted).log_softmax(-1)
    torch.testing.assert_close(blank, expected[..., -1])
    for b in range(2):
        for u in range(4):
            torch.testing.assert_close(emit[b, :, u], expected[b, :, u, tokens[b, u]])


@pytest.mark.parametrize("most", [1, 3 * 2 * 5 * 11, 10**9])
def test_parts_make_the_same_loss_and_gradient(inputs, most, monkeypatch):
    encoded, predicted, tokens = inputs
    joint = RNNTJoint(jointnet=JOINT, num_classes=10, vocabulary=list("abcdefghij"), log_softmax=False)
    alive = []
    whole_joint = joint.joint_after_projection
    monkeypatch.setattr(
        joint, "joint_after_projection", lambda f, g: alive.append((logits := whole_joint(f, g)).numel()) or logits
    )

    def gradients(most):
        monkeypatch.setattr("nemo_speechlm.losses.transducer.LOGITS", most)
        blank, emit = transducer_log_probs(joint, encoded, predicted, tokens, most)
        return torch.autograd.grad(blank.sum() + (emit * emit).sum(), [encoded, predicted, *joint.parameters()])

    expected = gradients(10**9)
    alive.clear()
    for ours, theirs in zip(gradients(most), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert max(alive) <= max(most, 2 * 5 * 11)


def test_loss_of_a_row_does_not_depend_on_the_others(inputs):
    encoded, predicted, tokens = inputs
    joint = RNNTJoint(jointnet=JOINT, num_classes=10, vocabulary=list("abcdefghij"), log_softmax=False)
    together = transducer_loss(joint, encoded, FRAMES, predicted, tokens, TARGETS)
    alone = transducer_loss(joint, encoded[1:, :5], FRAMES[1:], predicted[1:, :3], tokens[1:, :2], TARGETS[1:])
    torch.testing.assert_close(together[1:], alone)


def test_gradients():
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens = torch.tensor([[1, 1, 3], [0, 2, 4]])  # the last is blank's id, as padding may be
    assert torch.autograd.gradcheck(lambda x: lattice_log_probs(x, tokens), (logits,))

"""NeMo's modules with our layers compute what they did before."""

import torch
from nemo.collections.asr.modules import RNNTJoint
from torch import nn

from nemo_speechlm.kernels.dropout import Dropout
from nemo_speechlm.kernels.linear import Linear
from nemo_speechlm.modules.faster_layers import use_faster_layers


def joint(dropout):
    torch.manual_seed(0)
    network = {
        "encoder_hidden": 12, "pred_hidden": 10, "joint_hidden": 16, "activation": "relu", "dropout": dropout,
    }  # fmt: skip
    return RNNTJoint(jointnet=network, num_classes=5, vocabulary=list("abcde"), log_softmax=False)


def test_a_joint_network_computes_the_same():
    states, predicted = torch.randn(2, 7, 12), torch.randn(2, 4, 10)
    found = []
    for ours in (False, True):
        module = joint(0.0)
        names = list(module.state_dict())
        if ours:
            use_faster_layers(module)
            assert all(type(each) is not nn.Linear for each in module.modules())
        assert list(module.state_dict()) == names
        inputs = [x.clone().requires_grad_() for x in (states, predicted)]
        logits = module.joint(*inputs)
        logits.square().sum().backward()
        found.append([logits, *(x.grad for x in (*inputs, *module.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_dropout_keeps_its_share_and_mean():
    module = joint(0.25)
    use_faster_layers(module)
    dropouts = [each for each in module.modules() if isinstance(each, nn.Dropout)]
    assert [type(each) for each in dropouts] == [Dropout]
    assert any(type(each) is Linear for each in module.modules())
    dropped = dropouts[0](torch.ones(100_000))
    assert abs((dropped == 0).float().mean() - 0.25) < 0.01
    assert abs(dropped.mean() - 1) < 0.01

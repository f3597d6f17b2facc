import pytest
import torch
from nemo.collections.asr.modules import ConformerEncoder

from nemo_speechlm.modules.conformer import MaskedConformer

SIZES = {
    "feat_in": 16, "d_model": 16, "n_layers": 2, "n_heads": 2, "subsampling_factor": 1, "xscaling": False,
    "self_attention_model": "abs_pos", "conv_kernel_size": 5, "conv_norm_type": "group_norm4",
}  # fmt: skip


def pair(sizes=SIZES, **options):
    torch.manual_seed(0)
    ours = MaskedConformer(**sizes, **options).eval()
    theirs = ConformerEncoder(**sizes).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


RELATIVE = {**SIZES, "self_attention_model": "rel_pos", "conv_norm_type": "layer_norm"} | dict.fromkeys(
    ("dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att"), 0.0
)


@pytest.mark.parametrize("options", [
    {}, {"use_pytorch_sdpa": True}, {"conv_norm_type": "batch_norm"}, {"use_bias": False},
    {"att_context_size": [3, 2]}, {"conv_context_size": "causal"},
])  # fmt: skip
def test_what_cpus_compute_their_own_way_is_what_nemo_computes(options):
    """Values and gradients of a padded batch in training; frames that are padding may differ."""
    ours, theirs = pair({**RELATIVE, **options})
    ours.train(), theirs.train()
    for encoder in (ours, theirs):
        torch.manual_seed(1)
        for layer in encoder.layers:
            torch.nn.init.normal_(layer.self_attn.pos_bias_u)
            torch.nn.init.normal_(layer.self_attn.pos_bias_v)
    x, length, weight = torch.randn(3, 16, 40), torch.tensor([40, 31, 1]), torch.randn(3, 16, 40)
    inside = torch.arange(40) < length[:, None, None]
    states = []
    for encoder in (ours, theirs):
        states.append(encoder(audio_signal=x, length=length)[0] * inside)
        (states[-1] * weight).sum().backward()
    torch.testing.assert_close(*states, atol=2e-5, rtol=1e-4)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("options", [{}, {"conv_norm_type": "group_norm4"}])
def test_bfloat16_on_a_cpu(options):
    ours, _ = pair({**RELATIVE, **options})
    x, length = torch.randn(2, 16, 40), torch.tensor([40, 25])
    expected, _ = ours(audio_signal=x, length=length)
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = ours(audio_signal=x, length=length)
    assert (states - expected).abs()[0].max() < 0.1
    assert not torch.equal(states, expected)
    states[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters() if p.grad is not None)


def test_only_a_whole_context_takes_the_cpus_way(monkeypatch):
    from nemo_speechlm.modules import conformer

    calls = []
    attend = conformer.relative_attention
    monkeypatch.setattr(conformer, "relative_attention", lambda *args: calls.append(1) or attend(*args))
    x, length = torch.randn(2, 16, 9), torch.tensor([9, 5])
    for options, expected in (({}, 2), ({"att_context_size": [3, 2]}, 0)):
        calls.clear()
        pair({**RELATIVE, **options})[0](audio_signal=x, length=length)
        assert len(calls) == expected


def test_equals_nemos_without_padding():
    ours, theirs = pair()
    x, length = torch.randn(2, 16, 9), torch.tensor([9, 9])
    torch.testing.assert_close(ours(audio_signal=x, length=length), theirs(audio_signal=x, length=length))


@pytest.mark.parametrize("positions", [True, False])
def test_a_row_does_not_depend_on_its_batch(positions):
    ours, _ = pair(positions=positions)
    x = torch.randn(2, 16, 9)
    together, _ = ours(audio_signal=x, length=torch.tensor([9, 5]))
    alone, _ = ours(audio_signal=x[1:, :, :5], length=torch.tensor([5]))
    torch.testing.assert_close(together[1:, :, :5], alone)


def test_nemos_depends_on_it():
    _, theirs = pair()
    x = torch.randn(2, 16, 9)
    together, _ = theirs(audio_signal=x, length=torch.tensor([9, 5]))
    alone, _ = theirs(audio_signal=x[1:, :, :5], length=torch.tensor([5]))
    assert (together[1:, :, :5] - alone).abs().max() > 1e-3


def test_without_positions_equal_frames_far_from_the_ends_are_equal():
    x, length = torch.randn(1, 16, 1).expand(1, 16, 30), torch.tensor([30])
    for positions, equal in ((False, True), (True, False)):
        states, _ = pair(positions=positions)[0](audio_signal=x, length=length)
        assert torch.allclose(states[0, :, 12], states[0, :, 17], atol=1e-5) is equal


def test_positions_are_left_out_of_absolute_attention_only():
    with pytest.raises(ValueError, match="abs_pos"):
        MaskedConformer(positions=False, **{**SIZES, "self_attention_model": "rel_pos"})

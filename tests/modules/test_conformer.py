import pytest
import torch
from nemo.collections.asr.modules import ConformerEncoder

from nemo_speechlm.modules.conformer import MaskedConformer

SIZES = {
    "feat_in": 16, "d_model": 16, "n_layers": 2, "n_heads": 2, "subsampling_factor": 1, "xscaling": False,
    "self_attention_model": "abs_pos", "conv_kernel_size": 5, "conv_norm_type": "group_norm4",
}  # fmt: skip


def pair(**options):
    torch.manual_seed(0)
    ours = MaskedConformer(**SIZES, **options).eval()
    theirs = ConformerEncoder(**SIZES).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


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

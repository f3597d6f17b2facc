"""What attention decoders are built of, by their configs."""

import pytest
from omegaconf import OmegaConf

from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.models import SpeechLMCTCModel, SpeechLMEncDecModel
from nemo_speechlm.testing.configs import tiny_architecture
from nemo_speechlm.testing.corpora import tiny_labels


def config(**changes):
    """Of a model whose decoder is narrower than its encoder, so that there is an ``encoder_proj`` between them."""
    decoder = {"_target_": "nemo_speechlm.modules.RelativeDecoder", "n_layers": 1, "d_model": 16, "n_heads": 2}
    decoder |= {"d_ff": 16, "encoder_dim": 16}
    head = {"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"}
    model = {**tiny_architecture(), "labels": tiny_labels(), "decoder": decoder, "ctc_branch": head}
    return OmegaConf.create({**model, "optim": {"name": "adamw", "lr": 1e-3}, **changes})


@pytest.mark.parametrize("groups", [["encoder"], ["encoder", "decoder"]])
def test_groups_of_parameters_leave_none_out(groups):
    model = SpeechLMEncDecModel(config(optim_param_groups={name: {"lr": 1e-5} for name in groups}))
    optimizer, _ = model.setup_optimization()
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == (1e-5 if name.split(".")[0] in groups else 1e-3), name


def test_a_head_is_reused_only_where_there_is_one(tmp_path):
    start = config(decoder={"_target_": "nemo_speechlm.modules.SpeechLMCTCHead"})
    SpeechLMCTCModel(start).save_to(str(tmp_path / "ctc.nemo"))
    reused = {"init_from_pretrained": str(tmp_path / "ctc.nemo"), "reuse_ctc_head": True}
    with pytest.raises(SpeechLMError, match=r"model\.reuse_ctc_head needs model\.ctc_weight above 0"):
        SpeechLMEncDecModel(config(**reused, ctc_weight=0))
    assert SpeechLMEncDecModel(config(**reused, ctc_weight=0.3)).ctc_branch is not None

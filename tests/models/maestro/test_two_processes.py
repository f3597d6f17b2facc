"""MAESTRO in two processes: under DDP the gradient of the joint batch, under fsdp2 the weights of DDP."""

import pytest
import torch

from nemo_speechlm.models.common.pretrained import read_pretrained
from nemo_speechlm.models.maestro.model import MAESTROModel
from nemo_speechlm.testing.configs import tiny_recipe
from nemo_speechlm.testing.maestro import tiny_maestro_config
from nemo_speechlm.testing.processes import run_in_processes
from nemo_speechlm.training import run as training
from tests.long_forms import LONG


def _train(rank, corpus, folder):
    for strategy in ("ddp", "fsdp2"):
        model = tiny_maestro_config(corpus)
        recipe = tiny_recipe(folder / strategy, model, 3, devices=2, strategy=strategy, gradient_clip_val=1.0)
        training.train(recipe, lambda cfg, trainer: MAESTROModel(cfg=cfg, trainer=trainer))


@pytest.mark.skipif(
    not LONG, reason="trains twice in two processes: with LONG_TESTS=1; tests/training has a short one"
)
@pytest.mark.timeout(400)
def test_a_divided_model_learns_what_a_whole_one_does(corpus, tmp_path):
    """The averages of the weights, which are divided too, are those of a whole model."""
    assert run_in_processes(_train, 2, corpus, tmp_path) == [0, 0]
    expected, found = (read_pretrained(tmp_path / name / "out.nemo").weights for name in ("ddp", "fsdp2"))
    assert found.keys() == expected.keys()
    assert int(found["average.updates"]) == 3
    assert not torch.equal(found["text_encoder.tokens.weight"], found["average.parts.text_encoder.tokens.weight"])
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4, msg=key)

"""Units of a recording are those of its own frames."""

import numpy as np
import torch

from nemo_speechlm.data.audio.stream import Segment
from nemo_speechlm.inference.units import UnitFinder
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.testing.configs import tiny_pretrain_config
from nemo_speechlm.testing.corpora import tiny_corpus
from nemo_speechlm.testing.slam import tiny_slam_architecture


def test_no_unit_is_read_from_padding(tmp_path):
    """Mel features have a frame more than this audio, and it is padding."""
    torch.manual_seed(1)
    config = tiny_pretrain_config(tiny_corpus(tmp_path), **tiny_slam_architecture())
    model = SpeechLMModel(config).eval()
    samples = np.random.default_rng(0).normal(0, 0.1, 16_150).astype("float32")
    found = UnitFinder(model)(Segment(0.0, samples))
    _, frames = model.extract_features(torch.from_numpy(samples).unsqueeze(0), torch.tensor([16_150]))
    assert frames[0] / model.encoder.frame_rate == 1.0
    assert found[-1].start < 1.0 < found[-1].end

"""SLAM (arXiv 2110.10329): one encoder pretrained on speech, on text, and on pairs of both."""

from nemo_speechlm.models.slam.model import SLAMModel

__all__ = ["SLAMModel"]

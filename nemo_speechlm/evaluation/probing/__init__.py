"""Probing as in SUPERB (Yang et al., 2021): what a frozen encoder's layers know, measured with light heads."""

from nemo_speechlm.evaluation.probing.heads import FrameHead, LayerMix, RecurrentHead, UtteranceHead
from nemo_speechlm.evaluation.probing.model import ProbeModel

__all__ = ["FrameHead", "LayerMix", "ProbeModel", "RecurrentHead", "UtteranceHead"]

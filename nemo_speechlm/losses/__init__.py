"""The losses of pretraining: UMLM on speech, UCTC on text, the contrastive one of w2v-BERT."""

from nemo_speechlm.losses.contrastive import ContrastivePrediction, contrastive_prediction
from nemo_speechlm.losses.precision import at_least_float32
from nemo_speechlm.losses.uctc import UCTCLoss
from nemo_speechlm.losses.umlm import UnitPrediction, unit_prediction

__all__ = [
    "ContrastivePrediction",
    "UCTCLoss",
    "UnitPrediction",
    "at_least_float32",
    "contrastive_prediction",
    "unit_prediction",
]

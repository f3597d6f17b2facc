"""The losses of pretraining: UMLM on speech, UCTC on text."""

from nemo_speechlm.losses.uctc import UCTCLoss
from nemo_speechlm.losses.umlm import UnitPrediction, unit_prediction

__all__ = ["UCTCLoss", "UnitPrediction", "unit_prediction"]

"""What a user restores: NeMo models for pretraining and for recognition."""

from nemo_speechlm.models.ctc import SpeechLMCTCModel
from nemo_speechlm.models.pretrain import SpeechLMModel
from nemo_speechlm.nemo_targets import allow_targets

allow_targets()

__all__ = ["SpeechLMCTCModel", "SpeechLMModel"]

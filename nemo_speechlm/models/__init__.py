"""What a user restores: NeMo models for pretraining and for recognition, and an encoder alone."""

from nemo_speechlm.models.ctc import SpeechLMCTCModel
from nemo_speechlm.models.encoder import SpeechLMEncoderModel
from nemo_speechlm.models.pretrain import SpeechLMModel
from nemo_speechlm.nemo_targets import allow_targets

allow_targets()

__all__ = ["SpeechLMCTCModel", "SpeechLMEncoderModel", "SpeechLMModel"]

"""What a user restores: NeMo models for pretraining, for recognition, for units of text, and an encoder alone."""

from nemo_speechlm.models.encoder import SpeechLMEncoderModel
from nemo_speechlm.models.frame_classifier.model import FrameClassifierModel
from nemo_speechlm.models.maestro.model import MAESTROModel
from nemo_speechlm.models.recognition.ctc import SpeechLMCTCModel, SpeechLMCTCModelBPE
from nemo_speechlm.models.recognition.encdec import SpeechLMEncDecModel
from nemo_speechlm.models.slam.classifier import SLAMTextClassifier
from nemo_speechlm.models.slam.model import SLAMModel
from nemo_speechlm.models.speechlm.model import SpeechLMModel
from nemo_speechlm.models.text_to_unit.model import TextToUnitModel
from nemo_speechlm.nemo_targets import alias_former_modules, allow_targets

allow_targets()
alias_former_modules(__name__, ("ctc", "encdec", "pretrain"))

__all__ = [
    "FrameClassifierModel",
    "MAESTROModel",
    "SLAMModel",
    "SLAMTextClassifier",
    "SpeechLMCTCModel",
    "SpeechLMCTCModelBPE",
    "SpeechLMEncDecModel",
    "SpeechLMEncoderModel",
    "SpeechLMModel",
    "TextToUnitModel",
]

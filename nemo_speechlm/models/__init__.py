"""What a user restores: NeMo models for pretraining, for recognition, for units of text, and an encoder alone.

The public names are imported when they are asked for, so a program that restores one model does not load them all.
"""

from nemo_speechlm.nemo_targets import alias_former_modules, allow_targets
from nemo_speechlm.public_names import imported_when_asked

_HOMES = {
    "FrameClassifierModel": "models.frame_classifier.model",
    "MAESTROModel": "models.maestro.model",
    "SLAMModel": "models.slam.model",
    "SLAMTextClassifier": "models.slam.classifier",
    "SpeechLMCTCModel": "models.recognition.ctc",
    "SpeechLMCTCModelBPE": "models.recognition.ctc",
    "SpeechLMEncDecModel": "models.recognition.encdec",
    "SpeechLMEncoderModel": "models.encoder",
    "SpeechLMModel": "models.speechlm.model",
    "SpeechLMRNNTModel": "models.recognition.transducer_models",
    "SpeechLMRNNTModelBPE": "models.recognition.transducer_models",
    "TextToUnitModel": "models.text_to_unit.model",
}
"""Public names and the modules that define them. A name is imported when it is first asked for."""

allow_targets()
alias_former_modules(__name__, ("ctc", "encdec", "pretrain"))

__all__, __getattr__, __dir__ = imported_when_asked(__name__, _HOMES)

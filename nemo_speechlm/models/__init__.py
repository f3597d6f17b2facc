"""What a user restores: NeMo models for pretraining, for recognition, for units of text, and an encoder alone.

The public names are imported when they are asked for, so a program that restores one model does not load them all.
"""

from importlib import import_module
from typing import Any

from nemo_speechlm.nemo_targets import alias_former_modules, allow_targets

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
    "SpeechLMRNNTModel": "models.recognition.transducer_text",
    "SpeechLMRNNTModelBPE": "models.recognition.transducer_text",
    "TextToUnitModel": "models.text_to_unit.model",
}
"""Public names and the modules that define them. A name is imported when it is first asked for."""

allow_targets()
alias_former_modules(__name__, ("ctc", "encdec", "pretrain"))

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"nemo_speechlm.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

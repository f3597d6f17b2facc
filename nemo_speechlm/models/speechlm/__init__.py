"""SpeechLM (arXiv 2209.15329): masked unit prediction on speech, CTC on text, one shared encoder."""

from nemo_speechlm.models.speechlm.model import SpeechLMModel

__all__ = ["SpeechLMModel"]

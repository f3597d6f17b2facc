"""A model that writes hidden units and their durations for text (SpeechLM-H)."""

from nemo_speechlm.models.text_to_unit.model import TextToUnitModel

__all__ = ["TextToUnitModel"]

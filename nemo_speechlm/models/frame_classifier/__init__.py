"""A classifier of frames: the phones of speech, and a tokenizer for it."""

from nemo_speechlm.models.frame_classifier.model import FrameClassifierModel

__all__ = ["FrameClassifierModel"]

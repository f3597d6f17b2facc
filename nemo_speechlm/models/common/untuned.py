"""Pretrained models that recognize speech before any fine-tuning."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from nemo.collections.asr.models import ASRModel

if TYPE_CHECKING:
    from nemo.core.classes import ModelPT as _Host  # as types are checked, a mixin of NeMo's classes
else:
    _Host = object


class Untuned(_Host):
    """Mixin of models with a recognizer inside."""

    @abstractmethod
    def recognizer(self) -> ASRModel:
        """What the model has learned to recognize with, in evaluation mode; it shares the model's encoder.

        Raises:
            SpeechLMError: if that is nothing.
        """

    def transcribe(self, *args: Any, **options: Any) -> Any:
        """As NeMo's, by :meth:`recognizer`; the model stays in the mode it is in."""
        training = self.training
        try:
            return self.recognizer().transcribe(*args, **options)
        finally:
            self.train(training)

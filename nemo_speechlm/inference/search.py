"""What a model with an attention decoder is asked for: whether it is one, whether it translates, how it searches."""

from typing import Any

from nemo.collections.asr.models import ASRModel

from nemo_speechlm.errors import InputError
from nemo_speechlm.models.recognition.encdec import SpeechLMEncDecModel


def is_translation(model: ASRModel) -> bool:
    """Whether a model translates (it says so itself)."""
    return model.cfg.get("task") == "translation"


def has_attention_decoder(model: ASRModel) -> bool:
    """Whether a model is one of ours with an attention decoder."""
    return isinstance(model, SpeechLMEncDecModel)


def set_search(model: ASRModel, **settings: Any) -> None:
    """Change how a model with an attention decoder searches; None leaves a setting as it is.

    Args:
        model: the model.
        settings: fields of ``SearchSettings``.

    Raises:
        InputError: if something is to be changed in a model without such a decoder.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if not given:
        return
    if not isinstance(model, SpeechLMEncDecModel):
        raise InputError(f"{', '.join(given)}: {type(model).__name__} has no attention decoder; leave it out")
    model.change_decoding_strategy(given)

"""The labels of a CTC model and how a language model of them writes them."""

from collections.abc import Sequence

from nemo.collections.asr.models import ASRModel, EncDecCTCModel, EncDecCTCModelBPE

from nemo_speechlm.data.text.characters import CharacterEncoder, TextEncoder
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import SpeechLMError

TOKEN_OFFSET = 100
"""NeMo's n-gram models write token ``i`` as the character of code ``i + 100``: neither a space nor a line end."""


def is_ctc(model: ASRModel) -> bool:
    """Whether a model has a CTC output alone."""
    return isinstance(model, EncDecCTCModel)


def require_ctc(model: ASRModel) -> EncDecCTCModel:
    """The model as one with a CTC output.

    Raises:
        SpeechLMError: if it has none.
    """
    if not is_ctc(model):
        raise SpeechLMError(f"the model is a {type(model).__name__}; language models and tuning are for CTC models")
    return model


def text_encoder(model: EncDecCTCModel) -> TextEncoder:
    """The encoder from text to label ids of a CTC model, NeMo's or ours."""
    if isinstance(model, EncDecCTCModelBPE):
        return TokenEncoder(model.tokenizer.tokenizer.serialized_model_proto())
    return CharacterEncoder(list(model.decoder.vocabulary))


def labels_of(model: EncDecCTCModel) -> list[str]:
    """The symbols of the label ids, without the blank; tokens that begin a word begin with ``▁``."""
    if isinstance(model, EncDecCTCModelBPE):
        return TokenEncoder(model.tokenizer.tokenizer.serialized_model_proto()).labels
    return list(model.decoder.vocabulary)


def as_lm_tokens(ids: Sequence[int]) -> list[str]:
    """Label ids as the words of NeMo's n-gram models."""
    return [chr(i + TOKEN_OFFSET) for i in ids]


def words_of(labels: Sequence[str], ids: Sequence[int]) -> str:
    """The text that label ids spell."""
    text = "".join(labels[i] for i in ids)
    return " ".join(text.replace("▁", " ").split())

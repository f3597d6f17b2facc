"""How a model searches: what kind it is, which options of a search it makes use of, and how they are set."""

from collections.abc import Mapping
from typing import Any

from nemo.collections.asr.models import ASRModel

from nemo_speechlm.decoding.options import DecodingOptions
from nemo_speechlm.decoding.tokens import is_ctc
from nemo_speechlm.errors import InputError, SpeechLMError
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


_UNLESS_GIVEN = {
    "beam_size": None,
    "length_penalty": None,
    **{key: getattr(DecodingOptions, key) for key in ("beam_size_token", "beam_threshold", "lm_weight", "word_score")},
}
"""Options of a search, and what they are where nobody has given them."""

_USED_BY_CTC = {
    "greedy": set(),
    "beam": {"beam_size", "beam_threshold", "word_score"},
    "ngram": {"beam_size", "beam_threshold", "word_score", "lm_weight"},
    "lexicon": {"beam_size", "beam_threshold", "word_score", "lm_weight", "beam_size_token"},
}


def refuse_unused(cfg: Mapping[str, Any], model: ASRModel | None = None) -> None:
    """Raise if an option of a search is given that has no effect: whoever gave it takes the result for another one.

    Args:
        cfg: ``decoding`` and what a command has of ``beam_size``, ``beam_threshold``, ``lm_weight``, ...
        model: what decodes; None for any CTC model.

    Raises:
        SpeechLMError: naming the options.
    """
    kind = cfg.get("decoding") or "greedy"
    if model is not None and has_attention_decoder(model):
        used = {"length_penalty"} if cfg.get("decoding") == "greedy" else {"length_penalty", "beam_size"}
        how = "an attention decoder" + (" that decodes greedily" if "beam_size" not in used else "")
    elif model is None or is_ctc(model):
        used, how = _USED_BY_CTC[kind], f"decoding={kind} of a CTC model"
    else:
        used = {"beam_size"} if kind == "beam" else set()
        how = f"decoding={kind} of {type(model).__name__}" if cfg.get("decoding") else "a transducer's own decoding"
    unused = [
        f"{key}={cfg[key]}" for key, value in _UNLESS_GIVEN.items() if key not in used and cfg.get(key, value) != value
    ]
    if unused:
        raise SpeechLMError(f"{', '.join(unused)}: without effect on {how}; leave it out, or say another decoding=")

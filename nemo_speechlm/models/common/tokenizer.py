"""The tokenizer of a model: a SentencePiece model that its config names, which then travels in its ``.nemo``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo.core.classes import ModelPT
from omegaconf import open_dict

from nemo_speechlm.checks import check_choice
from nemo_speechlm.data.text.pieces import TokenEncoder
from nemo_speechlm.errors import SpeechLMError


def named_tokenizer(tokenizer: Any) -> str:
    """The file of the tokenizer that ``model.tokenizer`` names, by the folder ``dir`` or as ``model_path``.

    Returns:
        its path; what begins with ``nemo:`` is in the ``.nemo`` file that the config is from, and is not read here.

    Raises:
        InputError: if the file is not there or is not a SentencePiece model, or ``type`` is not NeMo's word for one.
    """
    check_choice("model.tokenizer.type", tokenizer.get("type") or "bpe", ("bpe",))
    path = str(tokenizer.get("model_path") or Path(tokenizer.dir) / "tokenizer.model")
    if not path.startswith("nemo:"):
        TokenEncoder(path)  # its errors name the file
    return path


def registered_tokenizer(model: ModelPT, needing: Sequence[str] = ()) -> Path | None:
    """Read the tokenizer that ``cfg.tokenizer`` names, and make it an artifact of the model.

    Args:
        model: it has the config.
        needing: tasks that cannot do without.

    Returns:
        the SentencePiece model's file; None where there is none.

    Raises:
        SpeechLMError: if there is none, and one of the tasks needs it.
    """
    tokenizer: Any = model.cfg.get("tokenizer") or {}
    if not tokenizer.get("dir") and not tokenizer.get("model_path"):
        if needing:
            raise SpeechLMError(
                f"model.tokenizer.dir is not given, and model.tasks.{needing[0]} is not 0; expected a folder made "
                "by train_tokenizer.py"
            )
        return None
    path = named_tokenizer(tokenizer)
    with open_dict(model.cfg):
        model.cfg.tokenizer.model_path = path
        path = model.register_artifact("tokenizer.model_path", path)
        model.cfg.tokenizer.dir = None
    return Path(path)

"""The kinds of checkpoints that are recognized, and what was read from one."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading.shown import shortened

NOT_SAID = "assumed: neither processor_config.json nor preprocessor_config.json is there to say it"
"""Of :attr:`Source.normalize`, for the user."""


class Kind(Enum):
    """The checkpoints that can be told apart."""

    PRETRAINED = "SpeechLM, pretrained"
    CLEANED = "SpeechLM, pretrained, without its output layers"
    CTC = "SpeechLM, fine-tuned with CTC"
    TRANSLATION = "SpeechLM, fine-tuned with a decoder"
    TEXT_TO_UNIT = "text-to-unit model"
    HUBERT = "HuBERT"
    WAV2VEC2 = "wav2vec 2.0"

    @property
    def is_speechlm(self) -> bool:
        """Whether it has a shared transformer."""
        return self in (Kind.PRETRAINED, Kind.CLEANED, Kind.CTC, Kind.TRANSLATION)


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was read.

    Attributes:
        path: the file or folder.
        kind: what it is.
        weights: all of its parameters, under fairseq's names.
        prefix: what stands in front of the encoder's names.
        settings: the model's, in fairseq's words.
        fine_tuning: those of fine-tuning, where it was fine-tuned.
        normalize: whether it wants audio of zero mean and unit variance.
        normalize_assumed: whether nothing says so, and ``normalize`` is a guess.
        label_rate: labels per second, where it says so.
        dictionaries: symbols by the name that fairseq's task gives them.
    """

    path: Path
    kind: Kind
    weights: Mapping[str, Tensor]
    prefix: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    fine_tuning: Mapping[str, Any] = field(default_factory=dict)
    normalize: bool = False
    label_rate: float | None = None
    dictionaries: Mapping[str, list[str]] = field(default_factory=dict)
    normalize_assumed: bool = False

    def encoder_weights(self) -> dict[str, Tensor]:
        """Parameters behind the prefix."""
        return {k.removeprefix(self.prefix): v for k, v in self.weights.items() if k.startswith(self.prefix)}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any error inside the block into an :class:`InputError` that names the file.

    A hostile file can hold anything anywhere: a list for a number, a table for a vector. What is checked has a message
    of its own; for the rest it is enough that there is one.
    """
    try:
        yield
    except InputError as error:
        raise error if error.path else InputError(error.reason, path) from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"is damaged, or of a form that is not known here ({type(error).__name__}: {shortened(str(error))})", path
        ) from error


_MOST_COPIES = 8
"""How often the values of a checkpoint may occur on average; weights that are tied occur twice."""


def named_tensors(model: Any) -> dict[str, Tensor]:
    """The parameters of a checkpoint by name.

    Raises:
        InputError: if there are none, or some without names.
    """
    found = {key: v for key, v in model.items() if isinstance(v, Tensor)} if isinstance(model, dict) else {}
    if not found:
        raise InputError("holds no parameters; expected a checkpoint of fairseq's with a 'model'")
    if not all(isinstance(key, str) for key in found):
        raise InputError("holds tensors without names")
    _check_sizes(found)
    return found


def _check_sizes(weights: Mapping[str, Tensor]) -> None:
    """Each parameter is copied, and the model gets the sizes that they show: neither may be much more."""
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in weights.values()}
    values = sum(stored.values())
    if sum(value.nbytes for value in weights.values()) > _MOST_COPIES * values:
        raise InputError(f"its parameters hold the same values more than {_MOST_COPIES} times")
    for name, value in weights.items():
        if not value.numel() and math.prod(filter(None, value.shape)) > max(values, 1):
            raise InputError(f"its parameter {shortened(name)} is of shape {tuple(value.shape)}")


# --- Hugging Face ---------------------------------------------------------------------------------------------------

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")

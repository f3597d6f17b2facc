"""The plan of a conversion: the config of our model, and where each parameter of the checkpoint goes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nemo_speechlm.errors import InputError
from nemo_speechlm.interop.reading.kinds import Source
from nemo_speechlm.units.inventory import UnitInventory


@dataclass(frozen=True)
class Options:
    """What the user may say about a conversion.

    Attributes:
        unit_dictionary: fairseq's dictionary of the units, where the checkpoint has none.
        label_dictionary: fairseq's dictionary of the characters, where the checkpoint has none.
        phone_dictionary: fairseq's dictionary of a text-to-unit model's phones, where the checkpoint has none.
        language: of the units, ISO 639-1.
        speech_layers: layers of HuBERT or wav2vec 2.0 that become the speech transformer; None: the first half.
        released_padding: see :class:`~nemo_speechlm.modules.ConvFrontEnd`; None: true for SpeechLM and
            text-to-unit models, whose numbers in a batch depend on it, false for HuBERT and wav2vec 2.0, whose
            features are used one by one.
        lowercase: lower the case of the characters, of which no two may become one.
        allow_missing: parameters (or modules) of our model that may stay random.
        allow_unused: parameters (or modules) of the checkpoint that may have no place.
    """

    unit_dictionary: Path | None = None
    label_dictionary: Path | None = None
    phone_dictionary: Path | None = None
    language: str = "en"
    speech_layers: int | None = None
    released_padding: bool | None = None
    lowercase: bool = False
    allow_missing: tuple[str, ...] = ()
    allow_unused: tuple[str, ...] = ()


@dataclass
class Plan:
    """A conversion that has not been carried out.

    Attributes:
        source: the checkpoint.
        model: name of our model's class.
        config: its config, ``units`` left out.
        weights: our parameters.
        names: ours -> the checkpoint's.
        left: the checkpoint's parameters that need no place, with the reason.
        inventory: the units, where the model has some.
        phones: those of a text-to-unit model.
    """

    source: Source
    model: str
    config: dict[str, Any]
    weights: dict[str, Tensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    inventory: UnitInventory | None = None
    phones: UnitInventory | None = None

    @property
    def unused(self) -> list[str]:
        """The checkpoint's parameters that are neither used nor left out for a stated reason."""
        return sorted(self.source.weights.keys() - self.left.keys() - set(self.names.values()))

    def put(self, ours: str, theirs: str, value: Tensor | None = None) -> None:
        """Say that a parameter of the checkpoint is one of ours; ``value`` where it needs a change."""
        if theirs in self.source.weights:
            dtype = self.source.weights[theirs].dtype
            if not dtype.is_floating_point:
                raise InputError(f"its parameter {theirs} is of {dtype}, expected real numbers")
            self.weights[ours] = (self.source.weights[theirs] if value is None else value).float()
            self.names[ours] = theirs


CTC_HEAD = {
    "1.weight": "conv.weight",
    "3.2.weight": "norm.weight",
    "3.2.bias": "norm.bias",
    "5.weight": "linear.weight",
    "5.bias": "linear.bias",
}

"""Units for speech and text: inventories, phoneme tokenizers, durations."""

from nemo_speechlm.tokenizers.units import DurationModel, UnitInventory, UnitSequence

__all__ = ["DurationModel", "UnitInventory", "UnitSequence"]

"""The discrete symbols that speech and text share: inventories, sequences, durations. No torch, no NeMo."""

from nemo_speechlm.units.durations import DurationSampler, estimate_durations, paper_durations
from nemo_speechlm.units.inventory import DurationModel, UnitInventory
from nemo_speechlm.units.phones import phoneme_inventory, word_units
from nemo_speechlm.units.sequence import UnitSequence

__all__ = [
    "DurationModel",
    "DurationSampler",
    "UnitInventory",
    "UnitSequence",
    "estimate_durations",
    "paper_durations",
    "phoneme_inventory",
    "word_units",
]

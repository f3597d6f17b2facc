"""Units for speech and text: inventories, phoneme tokenizers, durations."""

from nemo_speechlm.tokenizers.durations import DurationSampler, draw_durations, estimate_durations, paper_durations
from nemo_speechlm.tokenizers.english import EnglishPhonemizer, phoneme_inventory, word_units
from nemo_speechlm.tokenizers.text import PhonemeTextTokenizer
from nemo_speechlm.tokenizers.units import DurationModel, UnitInventory, UnitSequence

__all__ = [
    "DurationModel",
    "DurationSampler",
    "EnglishPhonemizer",
    "PhonemeTextTokenizer",
    "UnitInventory",
    "UnitSequence",
    "draw_durations",
    "estimate_durations",
    "paper_durations",
    "phoneme_inventory",
    "word_units",
]

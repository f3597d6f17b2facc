"""From speech or text to units: every tokenizer, and the values that they pass on.

The public names are imported when they are asked for, so a tool that needs one tokenizer does not load them all.
"""

from nemo_speechlm.public_names import imported_when_asked

_HOMES = {
    "DurationModel": "units.inventory",
    "DurationSampler": "units.durations",
    "EnglishPhonemizer": "pronouncing.english",
    "EnglishTokenizing": "tokenizers.english_text",
    "EspeakPhonemizer": "pronouncing.espeak",
    "EspeakTextTokenizer": "tokenizers.espeak_text",
    "EspeakTokenizing": "tokenizers.espeak_text",
    "FrameClassifierTokenizer": "tokenizers.frame_classifier",
    "FrameClassifierTokenizing": "tokenizers.frame_classifier",
    "GmmTokenizer": "tokenizers.gmm.tokenizer",
    "GmmTokenizing": "tokenizers.gmm.tokenizer",
    "ImportedTokenizer": "tokenizers.imported.tokenizer",
    "ImportedTokenizing": "tokenizers.imported.tokenizer",
    "KMeansTokenizer": "tokenizers.kmeans.tokenizer",
    "KMeansTokenizing": "tokenizers.kmeans.tokenizer",
    "PhonemeTextTokenizer": "tokenizers.english_text",
    "SpeechTokenizer": "tokenizers.speech",
    "SphinxTokenizer": "tokenizers.pocketsphinx.tokenizer",
    "SphinxTokenizing": "tokenizers.pocketsphinx.tokenizer",
    "TextToUnitTokenizer": "tokenizers.text_to_unit",
    "TextToUnitTokenizing": "tokenizers.text_to_unit",
    "TextTokenizer": "tokenizers.text",
    "UnitInventory": "units.inventory",
    "UnitSequence": "units.sequence",
    "estimate_durations": "units.durations",
    "paper_durations": "units.durations",
    "phoneme_inventory": "units.phones",
    "word_units": "units.phones",
}
"""Public names and the modules that define them. A name is imported when it is first asked for."""

__all__, __getattr__, __dir__ = imported_when_asked(__name__, _HOMES)

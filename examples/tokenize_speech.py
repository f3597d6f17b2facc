r"""Add phoneme units to a speech manifest: which phoneme is heard when, in frames of 10 ms.

    python examples/tokenize_speech.py manifest=train.json output=train_units.json units=units.json

Transcribed speech is aligned with its text. Untranscribed speech is decoded first, best with a language model of text
that resembles it; both are done by the English models that come with pocketsphinx:

    python examples/tokenize_speech.py manifest=unlabeled.json output=unlabeled_units.json units=units.json \
        lm_text=text.json

The unit inventory units.json is made if it is not there, with statistics of the units' durations; text gets its
durations from them in training, so begin with the speech that you trust most (the transcribed one).

What could not be aligned is counted by reason, and listed line by line in <output>.skipped.jsonl. A run that was
interrupted goes on where it was when the same command is given again.
"""

import functools
import hashlib
from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.data.manifest import read_manifest
from nemo_speechlm.data.text_units import check_inventory
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import refuse_overwrite
from nemo_speechlm.jobs import default_workers, run_job
from nemo_speechlm.tokenizers.english import EnglishPhonemizer, phoneme_inventory, read_lexicon
from nemo_speechlm.tokenizers.speech import (
    SpeechTokenizing,
    check_speech_inventory,
    is_transcribed,
    make_speech_units_work,
    with_estimated_durations,
)
from nemo_speechlm.tokenizers.sphinx_decode import LanguageModel, arpa_words, make_language_model, write_dictionary
from nemo_speechlm.tokenizers.units import UnitInventory


@command("tokenize_speech")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "workers", "lm_order", "vocabulary_size", "max_states", least=1)
    refuse_overwrite(cfg.output, cfg.overwrite)
    next(read_manifest(cfg.manifest, ["audio_filepath"]))  # a wrong file is found out before anything is made
    made = not Path(cfg.units).exists()
    inventory = phoneme_inventory(cfg.style) if made else UnitInventory.load(cfg.units)
    check_inventory(inventory, cfg.style, cfg.units)
    check_speech_inventory(inventory, cfg.units)
    if cfg.lexicon is not None:
        read_lexicon(cfg.lexicon)
    tokenizing = SpeechTokenizing(
        style=cfg.style,
        method=cfg.method,
        lexicon=cfg.lexicon,
        model=_language_model(cfg) if _decodes(cfg) else None,
        max_states=cfg.max_states,
        min_confidence=cfg.min_confidence,
        keep_text=cfg.keep_text,
        channel=cfg.channel,
    )
    report = run_job(
        cfg.manifest,
        cfg.output,
        functools.partial(make_speech_units_work, cfg.manifest, cfg.output, tokenizing),
        settings={
            "tokenizing": str(tokenizing),
            "files": [_digest(p) for p in (cfg.lexicon, *(tokenizing.model or ()))],
        },
        workers=cfg.workers or default_workers(),
        skip_bad=cfg.skip_bad,
        overwrite=cfg.overwrite,
        description="tokenize speech",
        unit="utterance",
    )
    if made:
        with_estimated_durations(inventory, cfg.output).save(cfg.units)
    print(f"{cfg.output}: {report}")


def _decodes(cfg: DictConfig) -> bool:
    """Whether any utterance is to be decoded; what is wrong in the manifest is for the job to find out."""
    if cfg.method != "auto":
        return cfg.method == "decode"
    try:
        return any(not is_transcribed(record) for _, record in read_manifest(cfg.manifest))
    except InputError:
        return True


def _language_model(cfg: DictConfig) -> LanguageModel:
    if cfg.lm is not None and cfg.lm_text is not None:
        raise SpeechLMError("lm and lm_text are both given; leave out one of the two")
    if cfg.lm_text is None and cfg.lm is None:
        return LanguageModel()
    for key in ("lm", "dictionary"):
        if cfg[key] is not None and not Path(cfg[key]).is_file():
            raise InputError(f"no such file ({key})", cfg[key])
    made_lm, made_dictionary = (Path(f"{cfg.output}.lm.{ending}") for ending in ("arpa", "dict"))
    if cfg.lm is not None:
        if cfg.dictionary is None:
            write_dictionary(arpa_words(cfg.lm), made_dictionary, EnglishPhonemizer(cfg.lexicon))
        return LanguageModel(Path(cfg.lm), Path(cfg.dictionary) if cfg.dictionary else made_dictionary)
    print(f"making a language model of {cfg.lm_text} ...")
    words = make_language_model(
        cfg.lm_text,
        made_lm,
        made_dictionary,
        EnglishPhonemizer(cfg.lexicon),
        order=cfg.lm_order,
        vocabulary_size=cfg.vocabulary_size,
    )
    print(f"{made_lm}: {cfg.lm_order}-grams of {words} words")
    return LanguageModel(made_lm, made_dictionary)


def _digest(path: str | Path | None) -> str | None:
    return None if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


if __name__ == "__main__":
    main()

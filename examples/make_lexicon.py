r"""Make a lexicon of the words of a corpus, for an aligner, and the inventory of their units, in any language.

    python examples/make_lexicon.py language=ru source=[train.json,text.json] output=lexicon.txt units=units.json

Words are pronounced by espeak-ng, in the phones (IPA) of its voice. A language is a file in conf/language: its voice,
its alphabet, the words that espeak-ng gets wrong. To add one, write such a file there, or as language/xx.yaml below a
folder of yours that --config-dir names.

Words with digits or letters outside the alphabet are left out, unless the language says foreign: espeak. What is left
out is counted by reason.
"""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.text.language import Language
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import refuse_one_file_twice, refuse_overwrite
from nemo_speechlm.pronouncing.corpus_lexicon import count_words, make_lexicon, write_counts, write_lexicon
from nemo_speechlm.pronouncing.english import EnglishPhonemizer
from nemo_speechlm.pronouncing.espeak import EspeakPhonemizer
from nemo_speechlm.pronouncing.lexicons import read_any_lexicon
from nemo_speechlm.pronouncing.phonemizer import Phonemizer
from nemo_speechlm.units.phones import check_style, phone_inventory, phoneme_inventory


@command("make_lexicon", makes=["output", "units"])
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "min_words", "min_phones", least=1)
    check_style(cfg.style)
    language = Language.of(OmegaConf.to_container(cfg.language))  # type: ignore[arg-type]
    phonemizer = _phonemizer(cfg, language)
    refuse_one_file_twice({"output": cfg.output, "units": cfg.units})
    for path in (cfg.output, cfg.units):
        if path is not None:
            refuse_overwrite(path, cfg.overwrite)
    sources = expand_shards(cfg.source)
    counts = count_words(sources, language)
    lexicon = make_lexicon(counts, phonemizer, language, min_words=cfg.min_words, min_phones=cfg.min_phones)
    if cfg.units is not None:
        if cfg.phonemizer == "english":
            inventory = phoneme_inventory(cfg.style)
        else:
            inventory = phone_inventory(language.code, lexicon.phones, cfg.style)
        write_counts(Path(f"{cfg.units}.counts.tsv"), lexicon)
        inventory.save(cfg.units)
        print(f"{cfg.units}: {len(inventory)} units of {len(lexicon.phones)} phones")
    write_lexicon(cfg.output, lexicon)
    print(f"{cfg.output}: {lexicon.report.summary(' (words)')}")


def _phonemizer(cfg: DictConfig, language: Language) -> Phonemizer:
    if cfg.phonemizer == "english":
        if language.code != "en":
            raise SpeechLMError(f"phonemizer is english, but language is {language.code}")
        return EnglishPhonemizer(cfg.lexicon)
    if cfg.phonemizer != "espeak":
        raise SpeechLMError(f"phonemizer is {cfg.phonemizer!r}, expected espeak or english")
    return EspeakPhonemizer(language, None if cfg.lexicon is None else read_any_lexicon(cfg.lexicon))


if __name__ == "__main__":
    main()

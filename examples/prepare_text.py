r"""Turn plain text into a normalized text manifest, one {"text": ...} a line, for text-only pretraining.

The source has one sentence a line (or one JSON object with "text" a line) and may be gzipped:

    python examples/prepare_text.py source=novels.txt.gz output=text.json \
        valid_lines=1000 valid_output=text_valid.json

Several sources (a list, or text__OP_0..9_CL_.txt) need as many outputs (clean__OP_0..9_CL_.json); each is a run of its
own, in which sentences that another one has are not left out.

Russian texts mostly write е for ё. Words that transcripts have with ё, and never without, are written with it by

    python examples/prepare_text.py language=ru source=novels.txt.gz output=text.json spelled_as=train.json

Everything left out is counted by reason and listed line by line in <output>.skipped.jsonl. To continue an interrupted
run, give the same command again.
"""

import functools
import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.checks import check_files
from nemo_speechlm.cli import chosen, command, whole_numbers
from nemo_speechlm.data.manifests.sentences import is_json_lines
from nemo_speechlm.data.manifests.shards import expand_shards
from nemo_speechlm.data.text.cleaning import lost_accents, make_cleaning_work
from nemo_speechlm.data.text.cleaning_options import TextCleaning
from nemo_speechlm.data.text.held_out import place_sentences
from nemo_speechlm.data.text.normalizer import check_normalizer
from nemo_speechlm.data.text.spelling import spellings_of
from nemo_speechlm.errors import SpeechLMError
from nemo_speechlm.files import refuse_input_as_output, refuse_one_file_twice
from nemo_speechlm.jobs.engines import Executor
from nemo_speechlm.jobs.job import run_job
from nemo_speechlm.tokenizers.jobs.several import for_each

FORMATS = ("auto", "text", "json")


@command("prepare_text")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "min_words", "min_characters", "valid_lines", "seed")
    whole_numbers(cfg, "max_words", "max_characters", "max_lines", "workers", least=1)
    if cfg.format not in FORMATS:
        raise SpeechLMError(f"format is {cfg.format!r}, expected one of {', '.join(FORMATS)}")
    if (cfg.valid_lines > 0) != (cfg.valid_output is not None):
        raise SpeechLMError("valid_lines and valid_output go together: how many sentences to hold out, and where to")
    refuse_one_file_twice({"output": cfg.output, "valid_output": cfg.valid_output})
    valid = None if cfg.valid_output is None else Path(cfg.valid_output)
    sources = expand_shards(cfg.source)
    for source in sources:  # one that is missing is told of before the others are worked on
        check_files(source)
    if len(sources) > 1 and valid is not None:
        raise SpeechLMError("valid_output goes with one source, and source names several; join them with cat")
    cleaning = TextCleaning(
        characters=cfg.characters,
        case=cfg.case,
        other_characters=cfg.other_characters,
        normalizer=cfg.normalizer,
        language=cfg.language.normalizer,
        normalizer_cache=cfg.normalizer_cache,
        min_words=cfg.min_words,
        max_words=cfg.max_words,
        min_characters=cfg.min_characters,
        max_characters=cfg.max_characters,
        json_lines=cfg.format == "json",
    )
    check_normalizer(cleaning)
    if cfg.spelled_as is not None:
        transcripts = expand_shards(cfg.spelled_as)
        refuse_input_as_output([Path(path) for path in expand_shards(cfg.output)], {"spelled_as": transcripts})
        plain = TextCleaning(characters=cfg.characters, case=cfg.case)
        cleaning = replace(cleaning, spellings=spellings_of(transcripts, cfg.language.get("optional", ""), plain))
        print(f"{len(cleaning.spellings)} words get the {cfg.language.optional} that {', '.join(transcripts)} has")
    engine = chosen(cfg.engine, Executor)

    def clean(source: str, output: str) -> str:
        own = replace(cleaning, json_lines=is_json_lines(source)) if cfg.format == "auto" else cleaning
        if (warning := lost_accents(source, own)) is not None:
            print(warning, file=sys.stderr)
        report = run_job(
            source,
            output,
            functools.partial(make_cleaning_work, own, source),
            settings={"cleaning": repr(own)},
            libraries=("python", *(["nemo_text_processing"] if own.normalizer == "nemo" else [])),
            workers=cfg.workers,
            engine=engine,
            skip_bad=cfg.skip_bad,
            overwrite=cfg.overwrite,
            max_lines=cfg.max_lines,
            place=functools.partial(
                place_sentences,
                unique=cfg.unique,
                valid_lines=cfg.valid_lines,
                valid_output=valid,
                seed=cfg.seed,
            ),
            others=() if valid is None else (valid,),
            description="prepare text",
        )
        held_out = f" ({cfg.valid_lines} of them to {cfg.valid_output})" if cfg.valid_lines else ""
        return f"{output}: {report.summary(held_out)}"

    made_with = {
        "cleaning": repr(cleaning),
        "format": cfg.format,
        "unique": cfg.unique,
        "max_lines": cfg.max_lines,
        "skip_bad": cfg.skip_bad,
    }
    print(for_each(cfg.source, cfg.output, made_with, clean, key="source"))


if __name__ == "__main__":
    main()

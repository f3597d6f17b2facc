r"""Add units to a text manifest: each sentence's phonemes, with silences at both ends and now and then between words.

    python examples/tokenize_text.py manifest=text.json output=text_units.json units=units.json

The unit inventory units.json is made if it is not there, with statistics from which durations are drawn in training;
if it is there, the text must fit it. With speech that tokenize_speech.py has aligned, take the statistics from it:

    python examples/tokenize_text.py manifest=text.json output=text_units.json units=units.json \
        aligned_manifest=speech_units.json

Each text_tokenizer has options of its own, listed below by --help; those of one alone:

    python examples/tokenize_text.py text_tokenizer=english --help

Everything left out is counted by reason and listed line by line in <output>.skipped.jsonl. To continue an interrupted
run, give the same command again. On several machines, give each the same command with shard=0/4, shard=1/4, ..., then
once with shard=join/4.
"""

import functools

from omegaconf import DictConfig

from nemo_speechlm.cli import chosen, command, whole_numbers
from nemo_speechlm.data.manifests.lines import check_manifests
from nemo_speechlm.files import refuse_one_file_twice
from nemo_speechlm.jobs.engines import Executor
from nemo_speechlm.tokenizers.jobs.manifest import tokenize_manifest
from nemo_speechlm.tokenizers.jobs.several import for_each
from nemo_speechlm.tokenizers.jobs.text import (
    check_durations,
    make_text_units_work,
    open_inventory,
    prepare_inventory,
)
from nemo_speechlm.tokenizers.text import TextTokenizing


@command("tokenize_text")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "max_units", "max_lines", "workers", least=1)
    whole_numbers(cfg, "seed")
    tokenizing = chosen(cfg, TextTokenizing)
    engine = chosen(cfg.engine, Executor)
    refuse_one_file_twice({"output": cfg.output, "units": cfg.units})
    check_manifests(cfg.manifest, ["text"], cfg.skip_bad)
    check_durations(cfg.durations, cfg.aligned_manifest)
    inventory = open_inventory(cfg.units, tokenizing)
    options = {"seed": cfg.seed, "max_units": cfg.max_units}
    settings = {**options, "inventory": inventory.digest}  # words with other units are left out

    @functools.cache  # once for several manifests
    def save_units() -> None:
        prepare_inventory(cfg.units, tokenizing, cfg.durations, cfg.aligned_manifest)

    def tokenize(manifest: str, output: str) -> str:
        return tokenize_manifest(
            manifest,
            output,
            tokenizing,
            lambda prepared, _: functools.partial(
                make_text_units_work, manifest, cfg.units, prepared, output=output, **options
            ),
            settings=settings,
            shard=cfg.shard,
            workers=cfg.workers,
            engine=engine,
            skip_bad=cfg.skip_bad,
            overwrite=cfg.overwrite,
            begin=save_units,  # a refused output leaves the units as they are
            max_lines=cfg.max_lines,
            description="tokenize text",
        )

    made_with = {**settings, "tokenizing": repr(tokenizing), "max_lines": cfg.max_lines, "shard": cfg.shard}
    given = {"skip_bad": cfg.skip_bad, "shard": cfg.shard}
    print(for_each(cfg.manifest, cfg.output, made_with, tokenize, tokenizing.files(), **given))


if __name__ == "__main__":
    main()

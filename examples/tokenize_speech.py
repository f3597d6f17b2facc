r"""Add phoneme units to a speech manifest: which phoneme is heard when, in frames of 10 ms.

    python examples/tokenize_speech.py manifest=train.json output=train_units.json units=units.json

Transcribed speech is aligned with its text. Untranscribed speech is decoded first, best with a language model of text
that resembles it; both are done by the English models that come with pocketsphinx:

    python examples/tokenize_speech.py manifest=unlabeled.json output=unlabeled_units.json units=units.json \
        lm_text=text.json

Each speech_tokenizer has options of its own, listed below by --help; those of one alone:

    python examples/tokenize_speech.py speech_tokenizer=pocketsphinx --help

The unit inventory units.json is made if it is not there, with statistics of the units' durations; text gets its
durations from them in training, so begin with the speech that you trust most (the transcribed one). They are estimated
anew with overwrite=true, where they are those of the output that is replaced.

Everything that could not be aligned is counted by reason and listed line by line in <output>.skipped.jsonl. To
continue an interrupted run, give the same command again. On several machines, give each the same command with
shard=0/4, shard=1/4, ..., then once with shard=join/4.
"""

import functools
from contextlib import ExitStack
from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.cli import chosen, command, whole_numbers
from nemo_speechlm.data.audio.files import check_channel
from nemo_speechlm.data.manifests.lines import check_manifests
from nemo_speechlm.files import refuse_one_file_twice
from nemo_speechlm.jobs.engines import Executor
from nemo_speechlm.jobs.shards import parse_join
from nemo_speechlm.locks import only_writer
from nemo_speechlm.tokenizers.jobs.manifest import tokenize_manifest
from nemo_speechlm.tokenizers.jobs.several import for_each
from nemo_speechlm.tokenizers.jobs.speech import has_durations_of, make_speech_units_work, with_estimated_durations
from nemo_speechlm.tokenizers.speech import SpeechTokenizing
from nemo_speechlm.units.inventory import UnitInventory


@command("tokenize_speech")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "workers", least=1)
    check_channel(cfg.channel)
    refuse_one_file_twice({"output": cfg.output, "units": cfg.units})
    tokenizing = chosen(cfg, SpeechTokenizing)
    engine = chosen(cfg.engine, Executor)
    check_manifests(cfg.manifest, ["audio_filepath"], cfg.skip_bad)

    def tokenize(manifest: str, output: str) -> str:
        with ExitStack() as held:
            makes_units = not Path(cfg.units).exists()
            whole = cfg.shard is None or parse_join(cfg.shard) is not None  # a shard leaves it to the joining
            if makes_units and whole:
                held.enter_context(only_writer(cfg.units))
            inventory = tokenizing.inventory() if makes_units else UnitInventory.load(cfg.units)
            tokenizing.check(inventory, cfg.units)
            replaces = whole and not makes_units and cfg.overwrite and Path(output).exists()
            renews_units = replaces and has_durations_of(inventory, output)
            if renews_units:
                held.enter_context(only_writer(cfg.units))

            def save_units(made: Path) -> None:
                with_estimated_durations(inventory, made).save(cfg.units)

            said = tokenize_manifest(
                manifest,
                output,
                tokenizing,
                lambda prepared, made: functools.partial(
                    make_speech_units_work, manifest, made, prepared, cfg.channel
                ),
                settings={"channel": cfg.channel},
                channel=cfg.channel,
                shard=cfg.shard,
                workers=cfg.workers,
                engine=engine,
                skip_bad=cfg.skip_bad,
                overwrite=cfg.overwrite,
                before_rename=save_units if makes_units or renews_units else None,
                description="tokenize speech",
                unit="utterance",
            )
            if makes_units and manifest != cfg.manifest:
                return f"{said}\n{cfg.units}: its durations are those of this output alone"
            return f"{said}\n{cfg.units}: its durations are those of the new output" if renews_units else said

    made_with = {"channel": cfg.channel, "tokenizing": repr(tokenizing), "shard": cfg.shard}
    given = {"skip_bad": cfg.skip_bad, "shard": cfg.shard}
    print(for_each(cfg.manifest, cfg.output, made_with, tokenize, tokenizing.files(), **given))


if __name__ == "__main__":
    main()

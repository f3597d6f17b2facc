r"""Add units to a text manifest: each sentence's phonemes, with silences at both ends and now and then between words.

    python examples/tokenize_text.py manifest=text.json output=text_units.json units=units.json

The unit inventory units.json is made if it is not there, with statistics from which durations are drawn in training;
if it is there, the text must fit it. With speech that tokenize_speech.py has aligned, take the statistics from it:

    python examples/tokenize_text.py manifest=text.json output=text_units.json units=units.json \
        aligned_manifest=speech_units.json

What is left out is counted by reason, and listed line by line in <output>.skipped.jsonl. A run that was interrupted
goes on where it was when the same command is given again.
"""

import functools
import hashlib

from omegaconf import DictConfig

from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.data.manifest import read_manifest
from nemo_speechlm.data.text_units import make_text_units_work, prepare_inventory
from nemo_speechlm.files import refuse_overwrite
from nemo_speechlm.jobs import default_workers, run_job
from nemo_speechlm.tokenizers.english import read_lexicon


@command("tokenize_text")
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "max_units", "max_lines", "workers", least=1)
    whole_numbers(cfg, "seed")
    refuse_overwrite(cfg.output, cfg.overwrite)
    next(read_manifest(cfg.manifest, ["text"]))  # a wrong file is found out before anything is made
    lexicon = None if cfg.lexicon is None else hashlib.sha256(repr(read_lexicon(cfg.lexicon)).encode()).hexdigest()
    prepare_inventory(cfg.units, cfg.style, cfg.durations, cfg.aligned_manifest)
    options = {
        "style": cfg.style,
        "silence_probability": cfg.silence_probability,
        "unknown": cfg.unknown,
        "lexicon": cfg.lexicon,
        "seed": cfg.seed,
        "max_units": cfg.max_units,
    }
    report = run_job(
        cfg.manifest,
        cfg.output,
        functools.partial(make_text_units_work, cfg.manifest, cfg.units, **options),
        settings={**options, "lexicon": lexicon},
        workers=cfg.workers or default_workers(),
        skip_bad=cfg.skip_bad,
        overwrite=cfg.overwrite,
        max_lines=cfg.max_lines,
        description="tokenize text",
    )
    print(f"{cfg.output}: {report}")


if __name__ == "__main__":
    main()

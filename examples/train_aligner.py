r"""Train a phone aligner (GMM-HMM) from transcribed speech and a lexicon, in any language, without other tools.

    python examples/train_aligner.py manifest=train.json output=aligner.safetensors
    python examples/train_aligner.py manifest=train.json output=aligner.safetensors language=ru phonemizer=null \
        lexicon=lexicon.txt

It starts from nothing (every phone alike) and goes over the speech in passes: align, estimate, add Gaussians. After
each pass it prints the log-likelihood per frame, which should rise and level off; <output>.png shows the passes.
Everything that could not be used is counted by reason and listed in <output>.skipped.jsonl. To continue an interrupted
run, give the same command again: it continues with the same pass.

The file then aligns speech that is transcribed, this or other:

    python examples/tokenize_speech.py speech_tokenizer=gmm model=aligner.safetensors manifest=train.json \
        output=train_units.json units=units.json
"""

import os
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from nemo_speechlm.checks import check_number
from nemo_speechlm.cli import command, whole_numbers
from nemo_speechlm.data.audio.files import check_channel
from nemo_speechlm.errors import InputError, SpeechLMError
from nemo_speechlm.files import refuse_overwrite
from nemo_speechlm.jobs.engines.executor import available_cores
from nemo_speechlm.jobs.progress import skipped_path
from nemo_speechlm.jobs.report import JobReport
from nemo_speechlm.units.inventory import UnitInventory

if TYPE_CHECKING:
    from nemo_speechlm.alignment.training import PassReport, TrainingPlan


@command("train_aligner", makes=["output"])
def main(cfg: DictConfig) -> None:
    whole_numbers(cfg, "states", "silence_states", "max_variants", "threads", least=1)
    whole_numbers(cfg, "seed")
    check_channel(cfg.channel)
    refuse_overwrite(cfg.output, cfg.overwrite)
    if cfg.max_hours is not None:
        check_number("max_hours", cfg.max_hours, above=0)
    units = None if cfg.units is None else UnitInventory.load(cfg.units)

    import torch

    from nemo_speechlm.evaluation.aligner import plot_passes
    from nemo_speechlm.pronouncing.word_pronouncer import Pronouncing
    from nemo_speechlm.tokenizers.gmm.corpus import CorpusSource
    from nemo_speechlm.tokenizers.gmm.training import AlignerTraining, passes_table

    threads = cfg.threads or available_cores()
    torch.set_num_threads(int(cfg.threads or os.environ.get("OMP_NUM_THREADS") or threads))
    manifests = cfg.manifest if isinstance(cfg.manifest, str) else list(cfg.manifest)
    training = AlignerTraining(
        CorpusSource(manifests, cfg.speaker_key, cfg.channel, cfg.max_hours, bool(cfg.skip_bad), cfg.seed),
        Pronouncing.read(
            cfg.lexicon,
            language=cfg.language.code,
            style=cfg.style,
            phonemizer=cfg.phonemizer,
            max_variants=cfg.max_variants,
            characters=cfg.characters,
        ),
        _plan(cfg),
        cfg.states,
        cfg.silence_states,
        units,
        _device(cfg.device),
        threads,
    )
    reports: list[PassReport] = []

    def show(report: "PassReport") -> None:
        tqdm.write(
            f"pass {report.number}: log-likelihood {report.log_likelihood:.3f} a frame, {report.components} Gaussians"
        )
        reports.append(report)
        if report.number == training.plan.passes:  # before the aligner takes its name: then all is there
            plot_passes(reports, f"{cfg.output}.png")

    done = training.run(cfg.output, show, cfg.overwrite)
    print(passes_table(done.reports))
    report = JobReport()
    for failure in done.failures:
        report.skip(failure.reason)
    reasons = "".join(f"\n  {count} x {reason}" for reason, count in report.skipped.most_common(10))
    print(
        f"{cfg.output}: trained on {done.utterances} utterances ({done.seconds / 3600:.2f} h), "
        f"{len(done.failures)} left out{reasons}"
    )
    if done.failures:
        print(f"what was left out: {skipped_path(cfg.output)}")


def _plan(cfg: DictConfig) -> "TrainingPlan":
    from nemo_speechlm.alignment.training import TrainingPlan

    if cfg.plan is None:
        raise SpeechLMError("plan is null, expected a mapping, such as plan.passes=16")
    values = OmegaConf.to_container(cfg.plan, resolve=True)
    try:
        return TrainingPlan(**values)  # type: ignore[arg-type]
    except TypeError as error:
        raise SpeechLMError(f"plan: {error}") from error


def _device(name: str | None) -> str | None:
    import torch

    try:
        if name is not None:
            torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device is {name!r}, which cannot be used: {str(error).splitlines()[0]}") from error
    return name


if __name__ == "__main__":
    main()

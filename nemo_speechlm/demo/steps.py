"""The demo: which commands it runs, and what it shows of their results."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

from omegaconf import DictConfig

from nemo_speechlm.cli import whole_numbers
from nemo_speechlm.data.audio.files import read_audio
from nemo_speechlm.data.corpora.demo.corpus import SAMPLE_RATE
from nemo_speechlm.data.manifests.lines import audio_path, read_manifest
from nemo_speechlm.data.manifests.units import unit_sequence
from nemo_speechlm.demo.overrides import option
from nemo_speechlm.demo.workflow import Step, run_steps
from nemo_speechlm.files import atomic_write
from nemo_speechlm.jobs.engines.executor import available_cores
from nemo_speechlm.program import COMMANDS
from nemo_speechlm.units.inventory import UnitInventory

SYSTEMS = {
    "none": "no pretraining",
    "umlm": "speech only (UMLM)",
    "speechlm_p": "SpeechLM-P",
}
"""The systems compared: name in file names, name in the table."""

UNTUNED = "before"
"""SpeechLM-P before fine-tuning, in file names."""

PRETRAINING_CURVES = ["val_masked_accuracy_shared", "train_umlm_shared", "train_uctc", "val_text_cer"]
FINETUNING_CURVES = ["train_loss", "val_wer"]


def run_demo(cfg: DictConfig) -> None:
    """Run the demo's steps that are not done yet, print its table, leave the plots; ``cfg`` is ``conf/demo.yaml``.

    Raises:
        SpeechLMError: if a number in ``cfg`` is none, a step fails, or a step in the folder is another command's.
    """
    whole_numbers(cfg, "seeds", "pretrain_steps", "finetune_steps", "jobs", least=1)
    whole_numbers(cfg, "seed")
    folder = Path(cfg.output)
    jobs = cfg.jobs or available_cores()
    run_steps(demo_steps(cfg, folder), folder / "logs", jobs)
    _plot(folder, cfg)
    table = demo_table(folder, cfg)
    with atomic_write(folder / "table.txt") as file:
        file.write(table + "\n")
    print(
        f"\n{table}\n\nIn {folder}: models (seed*/*.nemo), TensorBoard logs (seed*/runs/), plots (*.png), "
        "logs of the steps (logs/)"
    )


def demo_steps(cfg: DictConfig, folder: Path) -> list[Step]:
    """The commands of the demo, each with what it makes and what it needs; what is ready runs in this order."""
    trainings = [step for seed in _seeds(cfg) for step in _training_steps(cfg, folder, seed)]
    return [*_data_steps(cfg, folder), *trainings]


def _seeds(cfg: DictConfig) -> range:
    return range(cfg.seed, cfg.seed + cfg.seeds)


def _seed_folder(folder: Path, seed: int) -> Path:
    """Where everything is that was trained with this seed."""
    return folder / f"seed{seed}"


def _step(name: str, script: str, output: Path, *arguments: object, needs: tuple[str, ...] = ()) -> Step:
    return Step(name, (str(COMMANDS / script), *map(str, arguments)), output, needs)


def _data_steps(cfg: DictConfig, folder: Path) -> list[Step]:
    corpus, units = folder / "corpus", folder / "units.json"
    amounts = ("train_minutes", "untranscribed_minutes", "valid_minutes", "test_minutes", "sentences", "seed")
    make = [
        _step(
            "corpus", "prepare_data.py", corpus / "text.txt",
            "corpus=demo", option("output", corpus), *(f"{key}={cfg[key]}" for key in amounts),
        ),
        _step(
            "text", "prepare_text.py", folder / "text.json",
            option("source", corpus / "text.txt"), option("output", folder / "text.json"),
            "valid_lines=300", option("valid_output", folder / "valid_text.json"), needs=("corpus",),
        ),
    ]  # fmt: skip
    # Transcribed speech is aligned; what is said in the rest is recognized first, with a language model of the text.
    speech = [
        _step(
            f"units_{name}", "tokenize_speech.py", folder / f"{name}_units.json",
            option("manifest", corpus / f"{name}.json"), option("output", folder / f"{name}_units.json"),
            option("units", units), option("lm_text", folder / "text.json"), needs=needs,
        )
        for name, needs in (("train", ("text",)), ("untranscribed", ("units_train",)), ("valid", ("units_train",)))
    ]  # fmt: skip
    text = [
        _step(
            f"units_{name}", "tokenize_text.py", folder / f"{name}_units.json",
            option("manifest", folder / f"{name}.json"), option("output", folder / f"{name}_units.json"),
            option("units", units), "workers=1",
            needs=("units_train",),
        )
        for name in ("valid_text", "text")
    ]  # fmt: skip
    return [*make, *speech, *text]


def training_length(steps: int) -> list[str]:
    """So many updates, with enough points for a curve."""
    return [
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={max(1, steps // 9)}",
        f"trainer.log_every_n_steps={max(1, min(10, steps // 20))}",
    ]


def _training_steps(cfg: DictConfig, folder: Path, seed: int) -> list[Step]:
    """Train and test the three systems with one seed. The baseline comes first: it needs no units."""
    none, umlm, speechlm_p = (_fine_tuning_steps(cfg, folder, seed, system) for system in SYSTEMS)
    before = _evaluation_step(folder, seed, UNTUNED, "pretrained_speechlm_p", "pretrain_speechlm_p")
    return [*none, *_pretraining_steps(cfg, folder, seed), before, *speechlm_p, *umlm]


def _pretraining_steps(cfg: DictConfig, folder: Path, seed: int) -> list[Step]:
    here = _seed_folder(folder, seed)
    speech = [
        option("model.units", folder / "units.json"),
        option(
            "model.train_ds.speech.manifest_filepath",
            [folder / "train_units.json", folder / "untranscribed_units.json"],
        ),
        option("model.validation_ds.speech.manifest_filepath", folder / "valid_units.json"),
    ]
    text = [
        option("model.train_ds.text.manifest_filepath", folder / "text_units.json"),
        option("model.validation_ds.text.manifest_filepath", folder / "valid_text_units.json"),
    ]
    no_text = [
        "model.train_ds.text=null",
        "model.validation_ds.text=null",
        "model.loss.uctc=0",
        "model.swapping.prob=0",
    ]
    speech_units = ("units_train", "units_untranscribed", "units_valid")
    return [
        _step(
            f"pretrain_{system}_seed{seed}", "speechlm_pretrain.py", here / f"pretrained_{system}.nemo",
            "--config-name", "demo_pretrain", f"name=pretrain_{system}",
            option("output", here / f"pretrained_{system}.nemo"), *training_length(cfg.pretrain_steps),
            f"seed={seed}", option("exp_manager.exp_dir", here / "runs"),
            *speech, *arguments, needs=needs,
        )
        for system, arguments, needs in (
            ("speechlm_p", text, (*speech_units, "units_valid_text", "units_text")),
            ("umlm", no_text, speech_units),
        )
    ]  # fmt: skip


def _updates(cfg: DictConfig, system: str) -> tuple[int, int]:
    """A system's updates of pretraining and of fine-tuning: all systems get the same number in total."""
    total = cfg.pretrain_steps + cfg.finetune_steps
    return (0, total) if system == "none" else (cfg.pretrain_steps, cfg.finetune_steps)


def _fine_tuning_steps(cfg: DictConfig, folder: Path, seed: int, system: str) -> list[Step]:
    corpus, here = folder / "corpus", _seed_folder(folder, seed)
    start = [] if system == "none" else [option("model.init_from_pretrained", here / f"pretrained_{system}.nemo")]
    if system == "speechlm_p":
        start.append("model.reuse_ctc_head=true")
    return [
        _step(
            f"finetune_{system}_seed{seed}", "speechlm_finetune_ctc.py", here / f"ctc_{system}.nemo",
            "--config-name", "demo_ctc", f"name=finetune_{system}", option("output", here / f"ctc_{system}.nemo"),
            option("model.train_ds.manifest_filepath", corpus / "train.json"),
            option("model.validation_ds.manifest_filepath", corpus / "valid.json"),
            *training_length(_updates(cfg, system)[1]), f"seed={seed}", option("exp_manager.exp_dir", here / "runs"),
            *start,
            needs=("corpus",) if system == "none" else (f"pretrain_{system}_seed{seed}",),
        ),
        _evaluation_step(folder, seed, system, f"ctc_{system}", f"finetune_{system}"),
    ]  # fmt: skip


def _evaluation_step(folder: Path, seed: int, name: str, model: str, training: str) -> Step:
    """Measure a model, by the name of its file, that the step ``training`` makes."""
    here = _seed_folder(folder, seed)
    return _step(
        f"evaluate_{name}_seed{seed}", "speechlm_evaluate.py", here / f"test_{name}" / "summary.json",
        option("model", here / f"{model}.nemo"), option("manifest", folder / "corpus" / "test.json"),
        option("output", here / f"test_{name}"),
        needs=(f"{training}_seed{seed}",),
    )  # fmt: skip


def demo_table(folder: Path, cfg: DictConfig) -> str:
    """The demo's result: error rates of the systems on voices that none has heard.

    With several seeds a rate is the mean over them, with the lowest and the highest.
    """
    seeds = (
        f"{cfg.seeds} seeds: mean (lowest - highest)."
        if cfg.seeds > 1
        else "One seed: another can move a rate by several points (seeds=2 shows it)."
    )
    lines = [
        f"{cfg.train_minutes:g} min transcribed, {cfg.untranscribed_minutes:g} min untranscribed speech, "
        f"{cfg.sentences} sentences of text; {cfg.test_minutes:g} min of unheard voices.",
        f"{cfg.pretrain_steps + cfg.finetune_steps} updates in all for each system; the weights that were best on "
        "validation data.",
        seeds,
        "",
        f"{'pretraining':<22}{'updates':>10}{'WER %':>20}{'CER %':>20}{'WER to none':>13}",
    ]
    without = 0.0
    rows = [(system, title, "{} + {}".format(*_updates(cfg, system))) for system, title in SYSTEMS.items()]
    rows.append((UNTUNED, "before fine-tuning", f"{cfg.pretrain_steps} + 0"))
    for system, title, updates in rows:
        files = [_seed_folder(folder, seed) / f"test_{system}" / "summary.json" for seed in _seeds(cfg)]
        summaries = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        wer, cer = ([100 * summary[rate] for summary in summaries] for rate in ("wer", "cer"))
        if system == "none":
            without = mean(wer)
        change = "" if system == "none" or not without else f"{mean(wer) / without - 1:+.0%}"
        lines.append(f"{title:<22}{updates:>10}{_spread(wer):>20}{_spread(cer):>20}{change:>13}".rstrip())
    lines += [
        "",
        "Before fine-tuning: SpeechLM-P by the CTC head that learned from text. The units of its transcribed speech",
        "were aligned with the transcripts, those of the other speech were recognized.",
    ]
    return "\n".join(lines)


def _spread(rates: list[float]) -> str:
    """The mean of the seeds' rates, with their range where there are several."""
    span = f" ({min(rates):.1f} - {max(rates):.1f})" if len(rates) > 1 else ""
    return f"{mean(rates):.1f}{span}"


def _plot(folder: Path, cfg: DictConfig) -> None:
    from nemo_speechlm.evaluation.plots import plot_alignment, plot_curves

    def runs(kind: str, systems: Iterable[str]) -> dict[str, Path]:
        """The runs' folders by what stands in the legend."""
        return {
            SYSTEMS[system] + (f", seed {seed}" if cfg.seeds > 1 else ""): _seed_folder(folder, seed)
            / "runs"
            / f"{kind}_{system}"
            for system in systems
            for seed in _seeds(cfg)
        }

    plot_curves(runs("pretrain", ("umlm", "speechlm_p")), PRETRAINING_CURVES, folder / "pretraining.png")
    plot_curves(runs("finetune", SYSTEMS), FINETUNING_CURVES, folder / "finetuning.png")
    manifest, inventory = folder / "train_units.json", UnitInventory.load(folder / "units.json")
    number, record = min(read_manifest(manifest), key=lambda item: item[1]["duration"])
    audio = read_audio(audio_path(record, manifest), SAMPLE_RATE)
    plot_alignment(
        audio, SAMPLE_RATE, unit_sequence(record, inventory, manifest, number), inventory, folder / "alignment.png"
    )

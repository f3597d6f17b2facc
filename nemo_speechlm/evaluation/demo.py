"""The demo: which commands it runs, and what it shows of their results."""

import json
import os
from pathlib import Path

from omegaconf import DictConfig

from nemo_speechlm.cli import CONF
from nemo_speechlm.data.audio import read_audio
from nemo_speechlm.data.demo_corpus import SAMPLE_RATE
from nemo_speechlm.data.manifest import audio_path, read_manifest, unit_sequence
from nemo_speechlm.evaluation.workflow import Step, run_steps
from nemo_speechlm.files import atomic_write
from nemo_speechlm.tokenizers.units import UnitInventory

SYSTEMS = {
    "none": "no pretraining",
    "umlm": "speech only (UMLM)",
    "speechlm_p": "SpeechLM-P",
}
"""The systems compared: name in file names, name in the table."""

PRETRAINING_CURVES = ["val_masked_accuracy_shared", "train_umlm_shared", "train_uctc", "val_text_cer"]
FINETUNING_CURVES = ["train_loss", "val_wer"]


def run_demo(cfg: DictConfig) -> None:
    """Run the demo's steps that are not done yet, print its table, leave the plots; ``cfg`` is ``conf/demo.yaml``."""
    folder = Path(cfg.output)
    jobs = cfg.jobs or len(os.sched_getaffinity(0))
    run_steps(demo_steps(cfg, folder), folder / "logs", jobs)
    _plot(folder)
    table = demo_table(folder, cfg)
    with atomic_write(folder / "table.txt") as file:
        file.write(table + "\n")
    print(f"\n{table}\n\nIn {folder}: models (*.nemo), TensorBoard logs (runs/), plots (*.png), logs of the steps")


def demo_steps(cfg: DictConfig, folder: Path) -> list[Step]:
    """The commands of the demo, each with what it makes and what it needs."""
    return [*_data_steps(cfg, folder), *_training_steps(cfg, folder)]


def _step(name: str, script: str, output: Path, *arguments: object, needs: tuple[str, ...] = ()) -> Step:
    return Step(name, (str(CONF.parent / "examples" / script), *map(str, arguments)), output, needs)


def _data_steps(cfg: DictConfig, folder: Path) -> list[Step]:
    corpus, units = folder / "corpus", folder / "units.json"
    amounts = ("train_minutes", "untranscribed_minutes", "valid_minutes", "test_minutes", "sentences", "seed")
    make = [
        _step(
            "corpus", "prepare_data.py", corpus / "text.txt",
            "corpus=demo", f"output={corpus}", *(f"{key}={cfg[key]}" for key in amounts),
        ),
        _step(
            "text", "prepare_text.py", folder / "text.json",
            f"source={corpus}/text.txt", f"output={folder}/text.json",
            "valid_lines=300", f"valid_output={folder}/valid_text.json", needs=("corpus",),
        ),
    ]  # fmt: skip
    # Transcribed speech is aligned; what is said in the rest is recognized first, with a language model of the text.
    speech = [
        _step(
            f"units_{name}", "tokenize_speech.py", folder / f"{name}_units.json",
            f"manifest={corpus}/{name}.json", f"output={folder}/{name}_units.json", f"units={units}",
            f"lm_text={folder}/text.json", needs=needs,
        )
        for name, needs in (("train", ("text",)), ("untranscribed", ("units_train",)), ("valid", ("units_train",)))
    ]  # fmt: skip
    text = [
        _step(
            f"units_{name}", "tokenize_text.py", folder / f"{name}_units.json",
            f"manifest={folder}/{name}.json", f"output={folder}/{name}_units.json", f"units={units}", "workers=1",
            needs=("units_train",),
        )
        for name in ("valid_text", "text")
    ]  # fmt: skip
    return [*make, *speech, *text]


def _length(steps: int) -> list[str]:
    """So many updates, with enough points for a curve."""
    return [
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={max(1, steps // 9)}",
        f"trainer.log_every_n_steps={max(1, min(10, steps // 20))}",
    ]


def _training_steps(cfg: DictConfig, folder: Path) -> list[Step]:
    corpus, runs = folder / "corpus", f"exp_manager.exp_dir={folder}/runs"
    speech = [
        f"model.units={folder}/units.json",
        f"model.train_ds.speech.manifest_filepath=[{folder}/train_units.json,{folder}/untranscribed_units.json]",
        f"model.validation_ds.speech.manifest_filepath={folder}/valid_units.json",
    ]
    text = [
        f"model.train_ds.text.manifest_filepath={folder}/text_units.json",
        f"model.validation_ds.text.manifest_filepath={folder}/valid_text_units.json",
    ]
    no_text = [
        "model.train_ds.text=null",
        "model.validation_ds.text=null",
        "model.loss.uctc=0",
        "model.swapping.prob=0",
    ]
    speech_units = ("units_train", "units_untranscribed", "units_valid")
    pretraining = [
        _step(
            f"pretrain_{system}", "speechlm_pretrain.py", folder / f"pretrained_{system}.nemo",
            "--config-name", "demo_pretrain", f"name=pretrain_{system}", f"output={folder}/pretrained_{system}.nemo",
            *_length(cfg.pretrain_steps), f"seed={cfg.seed}", runs, *speech, *arguments, needs=needs,
        )
        for system, arguments, needs in (
            ("umlm", no_text, speech_units),
            ("speechlm_p", text, (*speech_units, "units_valid_text", "units_text")),
        )
    ]  # fmt: skip
    steps = [*pretraining]
    for system in ("speechlm_p", "umlm", "none"):
        start = {
            "speechlm_p": [
                f"model.init_from_pretrained={folder}/pretrained_speechlm_p.nemo",
                "model.reuse_ctc_head=true",
            ],
            "umlm": [f"model.init_from_pretrained={folder}/pretrained_umlm.nemo"],
            "none": [],
        }[system]
        steps += [
            _step(
                f"finetune_{system}", "speechlm_finetune_ctc.py", folder / f"ctc_{system}.nemo",
                "--config-name", "demo_ctc", f"name=finetune_{system}", f"output={folder}/ctc_{system}.nemo",
                f"model.train_ds.manifest_filepath={corpus}/train.json",
                f"model.validation_ds.manifest_filepath={corpus}/valid.json",
                *_length(cfg.finetune_steps), f"seed={cfg.seed}", runs, *start,
                needs=("corpus",) if system == "none" else (f"pretrain_{system}",),
            ),
            _step(
                f"evaluate_{system}", "speechlm_evaluate.py", folder / f"test_{system}" / "summary.json",
                f"model={folder}/ctc_{system}.nemo", f"manifest={corpus}/test.json", f"output={folder}/test_{system}",
                needs=(f"finetune_{system}",),
            ),
        ]  # fmt: skip
    return steps


def demo_table(folder: Path, cfg: DictConfig) -> str:
    """The demo's result: error rates of the three systems on voices that none has heard."""
    lines = [
        f"{cfg.train_minutes:g} min transcribed, {cfg.untranscribed_minutes:g} min untranscribed speech, "
        f"{cfg.sentences} sentences of text;",
        f"{cfg.pretrain_steps} updates of pretraining, {cfg.finetune_steps} of fine-tuning; "
        f"{cfg.test_minutes:g} min of unheard voices:",
        "",
        f"{'pretraining':<22}{'WER %':>8}{'CER %':>8}{'WER to none':>14}",
    ]
    rates = {}
    for system, title in SYSTEMS.items():
        summary = json.loads((folder / f"test_{system}" / "summary.json").read_text(encoding="utf-8"))
        wer, cer = 100 * summary["wer"], 100 * summary["cer"]
        rates[system] = wer
        change = "" if system == "none" else f"{wer / rates['none'] - 1:+.0%}"
        lines.append(f"{title:<22}{wer:>8.1f}{cer:>8.1f}{change:>14}")
    return "\n".join(lines)


def _plot(folder: Path) -> None:
    from nemo_speechlm.evaluation.plots import plot_alignment, plot_curves

    plot_curves(
        {SYSTEMS[name]: folder / "runs" / f"pretrain_{name}" for name in ("umlm", "speechlm_p")},
        PRETRAINING_CURVES,
        folder / "pretraining.png",
    )
    plot_curves(
        {title: folder / "runs" / f"finetune_{name}" for name, title in SYSTEMS.items()},
        FINETUNING_CURVES,
        folder / "finetuning.png",
    )
    manifest, inventory = folder / "train_units.json", UnitInventory.load(folder / "units.json")
    number, record = min(read_manifest(manifest), key=lambda item: item[1]["duration"])
    audio = read_audio(audio_path(record, manifest), SAMPLE_RATE)
    plot_alignment(
        audio, SAMPLE_RATE, unit_sequence(record, inventory, manifest, number), inventory, folder / "alignment.png"
    )
